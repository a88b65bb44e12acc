"""Figures drawn by code: block diagrams from here, plots from `.plots`, labelled pictures from `.pictures`.

`from cnn_site.figures import Figure, around, conv, data, stack`; importing it needs neither torch nor matplotlib.
"""

from .diagrams import Figure as Figure
from .diagrams import act as act
from .diagrams import around as around
from .diagrams import chain as chain
from .diagrams import conv as conv
from .diagrams import data as data
from .diagrams import fan as fan
from .diagrams import frame as frame
from .diagrams import gate as gate
from .diagrams import grid as grid
from .diagrams import link as link
from .diagrams import loss as loss
from .diagrams import maps as maps
from .diagrams import norm as norm
from .diagrams import op as op
from .diagrams import pool as pool
from .diagrams import row as row
from .diagrams import stack as stack
from .diagrams import tensor as tensor
