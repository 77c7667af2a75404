"""Families of models on one data set under equal budgets: trained, scored by the same features, and lined up."""
