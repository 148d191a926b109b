"""Acoustic scene classification informed by audio tagging (Jung et al. 2020): the reference implementation."""
