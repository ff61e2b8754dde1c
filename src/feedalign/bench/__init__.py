"""Measurements of cost: time, memory and arithmetic, against backpropagation."""
