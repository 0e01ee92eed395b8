"""Looking inside: a name for every formula of a block, read and edited while the model runs."""

from minitrans.looking.look import look
from minitrans.looking.points import POINTS
from minitrans.looking.seen import Seen

__all__ = ["POINTS", "Seen", "look"]
