"""The lab for attention: one variant after the other swapped into the same pretrained weights, and measured in the same way.

`bench` what is measured on, `specs` what a user writes for a variant, `sections` the table of what is measured, each with a file
here and one in `drawing`; `run` their order and what is kept of them, `report` the page that is made of it.
"""
