"""Model calls, one class per kind: what each computes at the blocks and returns to the sampler."""

from .base import ModelCall
from .paper import PaperFullCall, PaperReuseCall, PaperTokenCall
from .recording import RecordingCall
from .reuse import ReuseCall
from .token import TokenCall
