"""The page of `jaxgen app`: forms made of the commands' own options, a queue of what was asked, a server for one
machine."""
