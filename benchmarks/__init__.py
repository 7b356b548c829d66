"""Speed and memory as ratios, each pair of numbers taken in one run on one machine."""
