"""Data sets: `batch_at(seed, step)` is a pure function, so a run resumes exactly."""

from jaxgen.core.types import RawBatch
from jaxgen.data.analytic import AnalyticScene
from jaxgen.data.cameras import Cameras
from jaxgen.data.captioned import Captioned
from jaxgen.data.dataset import SPLITS, Dataset, RandomAccess
from jaxgen.data.embedded import Digits, Emoji, area_resize
from jaxgen.data.energies import Energy2D
from jaxgen.data.factors import Factors
from jaxgen.data.feed import BatchPlan, feed
from jaxgen.data.image_folder import ImageFolder
from jaxgen.data.mirrored import Mirrored
from jaxgen.data.moving_digits import MovingDigits
from jaxgen.data.notes import Notes
from jaxgen.data.pairs import EmojiEdges, PairFolder, ShrunkPairs
from jaxgen.data.scenes import SceneFolder
from jaxgen.data.sounds import Sounds
from jaxgen.data.speech import Speech, SpeechFolder, Spoken
from jaxgen.data.spoken_words import SpokenWords
from jaxgen.data.text import Text
from jaxgen.data.tfds import TFDS
from jaxgen.data.token_numbers import TokenNumbers
from jaxgen.data.tones import Tones
from jaxgen.data.toys import Toy2D
from jaxgen.data.unpaired import Unpaired
from jaxgen.data.whole_views import WholeViews

__all__ = [
    "SPLITS",
    "TFDS",
    "AnalyticScene",
    "BatchPlan",
    "Cameras",
    "Captioned",
    "Dataset",
    "Digits",
    "Emoji",
    "EmojiEdges",
    "Energy2D",
    "Factors",
    "ImageFolder",
    "Mirrored",
    "MovingDigits",
    "Notes",
    "PairFolder",
    "RandomAccess",
    "RawBatch",
    "SceneFolder",
    "ShrunkPairs",
    "Sounds",
    "Speech",
    "SpeechFolder",
    "Spoken",
    "SpokenWords",
    "Text",
    "TokenNumbers",
    "Tones",
    "Toy2D",
    "Unpaired",
    "WholeViews",
    "area_resize",
    "feed",
]
