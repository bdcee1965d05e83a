"""Share saved models on the Hugging Face hub, with a model card of their results."""

from dfpc_plugin.hub.card import model_card
from dfpc_plugin.hub.transfer import HubError, from_pretrained, push_to_hub

__all__ = ["HubError", "from_pretrained", "model_card", "push_to_hub"]
