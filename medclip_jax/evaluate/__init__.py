"""Evaluation of a checkpoint: protocols with intervals, beside chance and random initialisation."""
