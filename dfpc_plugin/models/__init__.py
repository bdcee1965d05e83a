"""Build models by name, with or without weights, and make inputs for them.

No other part knows timm's and torchvision's models. A plain name is timm's (`resnet50`,
`vit_base_patch16_224.augreg_in21k`), `torchvision/NAME` is torchvision's, `cifar/NAME` is a network of the CIFAR
papers, and `package.module:factory` is a function of the user's own.
"""

from dfpc_plugin.models.build import FittedModel, build_fitted, build_model
from dfpc_plugin.models.catalogue import example_inputs, match_models, preprocessing_of
from dfpc_plugin.models.checkpoint import Checkpoint, WeightsError, read_checkpoint
from dfpc_plugin.models.library import Preprocessing
from dfpc_plugin.models.spec import BUILT_AS, ModelOptionError, ModelSpec, remembered
from dfpc_plugin.models.timm_library import spec_of
from dfpc_plugin.models.weights import MismatchError, load_weights

__all__ = [
    "BUILT_AS",
    "Checkpoint",
    "FittedModel",
    "MismatchError",
    "ModelOptionError",
    "ModelSpec",
    "Preprocessing",
    "WeightsError",
    "build_fitted",
    "build_model",
    "example_inputs",
    "load_weights",
    "match_models",
    "preprocessing_of",
    "read_checkpoint",
    "remembered",
    "spec_of",
]
