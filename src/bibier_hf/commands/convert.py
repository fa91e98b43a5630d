"""`bibier convert`."""

from typing import Literal

from pydantic import Field

from ..commandline import Section
from ..files import filled_folder
from ..hub import convert_original as original
from ..hub.convert_original import AUDIO_BACKBONE, TEXT_BACKBONE, UNCUT, VARIANTS, build_model, read_weights
from ..model.processing_bibier import BiBiERProcessor


class ConvertArguments(Section):
    """Convert the published weights into a checkpoint that reproduces the published system.

    Examples:
      bibier convert --fusion best_model.pt --num_transformer_heads 8 --output_dir outputs/published
      bibier convert --audio_head best_audio_model_2.pt --output_dir outputs/published_audio
      bibier convert --audio_head A.pt --text_head T.pth --fusion F.pt --num_transformer_heads 8 --output_dir OUT

    All three parts together are the whole system. A fusion alone takes encoded frames, a head alone backbone features.
    """

    output_dir: str = Field(description="folder of the checkpoint")
    audio_head: str | None = Field(None, description="CustomMambaClassifier: .pt, .pth or .safetensors")
    text_head: str | None = Field(None, description="text Mamba, likewise")
    fusion: str | None = Field(None, description="fusion model, likewise")
    variant: Literal[tuple(VARIANTS)] | None = Field(
        None, description=f"class of the fusion model: {', '.join(VARIANTS)}; null: found from its keys"
    )
    num_transformer_heads: int | None = Field(
        None, ge=1, description="heads of the cross-modal attention, which the weights do not tell"
    )
    audio_backbone: str = Field(AUDIO_BACKBONE, description="speech backbone of the whole system: Hub id or folder")
    text_backbone: str = Field(TEXT_BACKBONE, description="text backbone of the whole system: Hub id or folder")


def convert(arguments: ConvertArguments) -> None:
    """Convert the files into a `save_pretrained` folder."""
    audio, text, fusion = arguments.audio_head, arguments.text_head, arguments.fusion
    variant, heads = arguments.variant, arguments.num_transformer_heads

    with filled_folder(arguments.output_dir) as new:
        parts = (
            original.convert_audio_head(read_weights(audio)) if audio else None,
            original.convert_text_head(read_weights(text)) if text else None,
            original.convert_fusion(read_weights(fusion), variant, heads) if fusion else None,
        )
        backbones = None if None in parts else (arguments.audio_backbone, arguments.text_backbone)
        model = build_model(*parts, backbones=backbones)

        if backbones is not None:
            BiBiERProcessor.from_backbones(*backbones, max_text_tokens=UNCUT).save_pretrained(new)

        model.save_pretrained(new)

    if dead := [key for part in parts if part is not None for key in part.dead]:
        print(f"Left out {len(dead)} parameters that the original saves but never uses: {', '.join(dead)}")
    print(f"Written to {arguments.output_dir}")
