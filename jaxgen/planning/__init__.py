"""What a preset needs of an accelerator, by compiling its programs for one that is not here: `jaxgen plan`."""
