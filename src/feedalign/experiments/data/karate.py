"""Zachary's karate club: 34 members, 78 friendships. No file, no network.

References:
    Zachary, *An information flow model for conflict and fission in small groups*, 1977. Kipf & Welling,
    *Semi-supervised classification with graph convolutional networks*, ICLR 2017, for the four communities.
"""

from pathlib import Path

import torch

from feedalign.experiments.data.graph_data import GraphData, both_directions, mask

# Each member's friends with a higher number.
FRIENDS = {
    0: (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 17, 19, 21, 31),
    1: (2, 3, 7, 13, 17, 19, 21, 30),
    2: (3, 7, 8, 9, 13, 27, 28, 32),
    3: (7, 12, 13),
    4: (6, 10),
    5: (6, 10, 16),
    6: (16,),
    8: (30, 32, 33),
    9: (33,),
    13: (33,),
    14: (32, 33),
    15: (32, 33),
    18: (32, 33),
    19: (33,),
    20: (32, 33),
    22: (32, 33),
    23: (25, 27, 29, 32, 33),
    24: (25, 27, 31),
    25: (31,),
    26: (29, 33),
    27: (33,),
    28: (31, 33),
    29: (32, 33),
    30: (32, 33),
    31: (32, 33),
    32: (33,),
}
# The community of each member, by modularity: not the two factions into which the club split.
COMMUNITIES = "1111333101311100310101002200200200"


def read(root: Path, *, download: bool = True) -> GraphData:
    """Return the club, always the same: one-hot features, the four communities as labels.

    As in the paper of Kipf & Welling, the first member of each community trains. It states no validation nodes:
    every third of a community's other members validates, and the rest tests.
    """
    del root, download
    labels = torch.tensor([int(digit) for digit in COMMUNITIES])
    nodes, classes = len(labels), int(labels.max()) + 1
    communities = [(labels == label).nonzero().flatten() for label in range(classes)]
    train = mask(torch.cat([members[:1] for members in communities]), nodes)
    validation = mask(torch.cat([members[1::3] for members in communities]), nodes)
    pairs = torch.tensor([(member, friend) for member, friends in FRIENDS.items() for friend in friends]).T
    return GraphData(
        name="karate",
        x=torch.eye(nodes),
        edge_index=both_directions(pairs, nodes),
        y=labels,
        classes=classes,
        train=train,
        validation=validation,
        test=~(train | validation),
    )
