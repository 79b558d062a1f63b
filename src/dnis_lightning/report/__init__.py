"""Runs as people look at them: tables, figures and pages of one run or of many, and a picture of a data set."""
