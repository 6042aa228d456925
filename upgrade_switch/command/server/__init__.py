"""
``upgrade-switch serve``: a site that switches, from the command line.
"""
