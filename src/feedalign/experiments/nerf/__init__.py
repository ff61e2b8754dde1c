"""Scenes learnt from photographs: a field of colour and density, and rays through it."""
