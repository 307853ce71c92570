"""Where a measure becomes a flag; all of them are this project's choices."""

MIN_EPISODES = 30
"""Fewer episodes leave every interval wide."""
SAME_LENGTH = 0.05
"""Share of the episodes that may terminate at the longest length of all by chance."""
TIME_CORRELATION = 0.999
"""Correlation with the step above which an observation is a clock."""
DUPLICATES = 0.01
"""Share of rows that may be exact copies of others."""
CONTINUITY = 1e-6
"""Largest difference between next_obs and the next row's obs, relative to 1 + |obs|."""
HUGE = 1e4
"""Largest observation that float32 networks are expected to take."""
SHORT_EPISODE = 0.02
"""An episode shorter than this share of the median length is suspicious."""
CLIPPED = 0.05
"""Share of continuous rewards that may equal an extreme one."""
CONTINUOUS = 100
"""Unique rewards from which on rewards count as continuous."""
SPARSE = 0.95
"""Share of zero rewards from which on rewards are sparse."""
SATURATED = 0.99
"""Scaled action from which on it is at its bound."""
SATURATED_SHARE = 0.9
"""Share of actions at a bound from which on a dimension is a switch."""
BINS = 20
"""Bins per action dimension."""
COVERED_BINS = 3
"""A dimension of actions that visits fewer bins says nothing of the others."""
CELLS = 1024
"""Cells that states are hashed into."""
DETERMINISTIC = 0.95
"""Probability of the likeliest action from which on a state counts as deterministic, and the
share of such states from which on the behavior does."""
EXPERT = 0.9
"""Share of the best return from which on an episode counts as good."""
GOOD_EPISODES = 0.2
"""Share of good episodes below which they are few."""
POOR_EPISODES = 0.1
"""Share of poor episodes (the way from worst to best is missed by 0.9 of it) that shows that a log
knows failure too."""
TREND = 0.5
"""Rank correlation of return and order from which on a log looks like a training run's."""
HIGH_QUALITY = 0.8
"""Trajectory quality that counts as high."""
NARROW_SPREAD, WIDE_SPREAD = 0.05, 0.15
"""Spread of returns above the mean, on their scale, up to which episodes are alike, and from which
on they are mixed."""
VARIED = 1.5
"""Effective discrete actions per state that count as varied."""
