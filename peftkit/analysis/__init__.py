"""Estimates before training, without the model's weights.

What a recipe costs, where a step spends its time, what a method trains, and what a task shows the model.
"""
