"""Every Wan that ComfyUI knows: 2.1 and 2.2, and what was built on them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import torch
from torch import Tensor

from .base import NotOnThisHost, Sampled, ZooModel, empty_latent, fill, make_model, prompts, random, require_module

TEXT = 48
SHAPE = (1, 16, 4, 8, 8)  # four latent frames of 8 x 8
SIZES = {"dim": 96, "ffn_dim": 128, "num_heads": 2, "num_layers": 4, "in_dim": 16, "freq_dim": 32, "text_dim": TEXT}


def wan(config: str, base_class: str, **sizes: Any) -> Any:
    return make_model(config, base_class, **(SIZES | sizes))


def sampled(model: Any, latent: dict | None = None, *, negative: dict | None = None, **extra: Any) -> Sampled:
    """The usual inputs; `extra` for both conditionings, `negative` over it for the negative alone."""
    conditionings = prompts(TEXT, **extra)
    conditionings["negative"][0][1].update(negative or {})
    return Sampled(model, **conditionings, latent=latent or empty_latent(*SHAPE))


def frames(count: int = 4, channels: int = 16, seed: int = 20, size: int = 8) -> Tensor:
    return random(1, channels, count, size, size, seed=seed)


def clip_vision(tokens: int = 17, seed: int = 30) -> Any:
    return SimpleNamespace(penultimate_hidden_states=random(1, tokens, 1280, seed=seed))


def start_image(count: int = 4) -> dict:
    """What the image-to-video nodes add: the encoded video with its first frame known."""
    mask = torch.ones(1, 1, count, 8, 8)
    mask[:, :, :1] = 0.0
    return {"concat_latent_image": frames(count), "concat_mask": mask}


def text_to_video() -> Sampled:
    return sampled(wan("WAN21_T2V", "WAN21"))


def image_to_video() -> Sampled:
    return sampled(wan("WAN21_I2V", "WAN21", in_dim=36), clip_vision_output=clip_vision(), **start_image())


def first_and_last_frame() -> Sampled:
    model = wan("WAN21_I2V", "WAN21", in_dim=36, flf_pos_embed_token_number=34)
    return sampled(model, clip_vision_output=clip_vision(34), **start_image())


def image_to_video_22() -> Sampled:
    """Wan 2.2 A14B reads no image embedding."""
    return sampled(wan("WAN21_T2V", "WAN21", in_dim=36), **start_image())


def fun_control() -> Sampled:
    model = wan("WAN21_FunControl2V", "WAN21", in_dim=48)
    return sampled(model, clip_vision_output=clip_vision(), concat_latent_image=frames(channels=32))


def fun_control_22() -> Sampled:
    """With a reference image, whose tokens come before the video's."""
    model = wan("WAN21_T2V", "WAN21", in_dim=52, in_dim_ref_conv=16)
    extra = start_image() | {"concat_latent_image": frames(channels=32), "concat_mask_index": 16}
    return sampled(model, reference_latents=[frames(1, seed=21)], **extra)


def phantom() -> Sampled:
    """Subjects as frames after the video's; the negative has empty ones."""
    model = wan("WAN21_T2V", "WAN21")
    subjects = frames(2, seed=22)
    return sampled(model, time_dim_concat=subjects, negative={"time_dim_concat": torch.zeros_like(subjects)})


def bernini() -> Sampled:
    """Videos and images to edit by, as tokens after the video's."""
    require_module("comfy_extras.nodes_bernini", "Bernini")
    return sampled(wan("WAN21_T2V", "WAN21"), context_latents=[frames(1, seed=23), frames(4, seed=24)])


def infinite_talk() -> Sampled:
    """Image to video with an attention to speech, which a patch adds to every block, and a first frame that stays."""
    host = require_module("comfy.ldm.wan.model_multitalk", "InfiniteTalk")
    patches = require_module("comfy_extras.nodes_model_patch", "InfiniteTalk")
    if not hasattr(patches, "MultiTalkModelPatch"):
        raise NotOnThisHost("this ComfyUI has no InfiniteTalk")
    model = wan("WAN21_I2V", "WAN21", in_dim=36, dim=80)
    settings = {"dtype": model.model_dtype(), "operations": comfy.ops.manual_cast}
    talk = patches.MultiTalkModelPatch(intermediate_dim=4, in_dim=80, out_dim=16, num_layers=4, **settings)
    fill(talk)
    model.model_options["transformer_options"]["audio_embeds"] = random(1, 4, 32, 16, seed=26)
    speech = comfy.model_patcher.ModelPatcher(talk, model.load_device, model.offload_device)
    model.set_model_patch(host.MultiTalkCrossAttnPatch(speech), "attn2_patch")
    keep = host.InfiniteTalkOuterSampleWrapper(frames(1), speech)
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, "infinite_talk_outer_sample", keep)
    return sampled(model, clip_vision_output=clip_vision(), **start_image())


def causal() -> Sampled:
    return sampled(wan("WAN21_CausalAR_T2V", "WAN21_CausalAR"))


def flow_rvs() -> Sampled:
    """Goes from a video to its masks: the latent is the video."""
    return sampled(wan("WAN21_FlowRVS", "WAN21_FlowRVS"), {"samples": frames(seed=25)})


def vace() -> Sampled:
    model = wan("WAN21_Vace", "WAN21_Vace", vace_layers=2, vace_in_dim=96)
    extra = {"vace_frames": [frames(channels=32)], "vace_mask": [torch.ones(1, 64, 4, 8, 8)], "vace_strength": [1.0]}
    return sampled(model, **extra)


def camera() -> Sampled:
    model = wan("WAN21_Camera", "WAN21_Camera", in_dim=32)
    extra = {"concat_latent_image": frames(), "clip_vision_output": clip_vision()}
    return sampled(model, camera_conditions=frames(channels=24, size=64), **extra)


def camera_22() -> Sampled:
    model = wan("WAN22_Camera", "WAN21_Camera", in_dim=36)
    return sampled(model, camera_conditions=frames(channels=24, size=64), **start_image())


def humo() -> Sampled:
    """Moved by speech: a window of 8 x 5 audio features a frame; a reference image comes after the video's frames."""

    import comfy.ldm.wan.model as host

    def narrow_audio(network: Any) -> None:
        settings = {"dtype": network.dtype, "operations": comfy.ops.manual_cast}
        network.audio_proj = host.AudioProjModel(8, 5, 8, 32, 1536, 16, **settings)

    model = wan("WAN21_HuMo", "WAN21_HuMo", in_dim=36, shrink=narrow_audio)
    audio = random(1, 4, 8, 5, 8, seed=26)
    silent = {"audio_embed": torch.zeros_like(audio), "reference_latents": [torch.zeros(1, 16, 1, 8, 8)]}
    return sampled(model, audio_embed=audio, reference_latents=[frames(1, seed=21)], negative=silent)


def speech_to_video() -> Sampled:
    model = wan("WAN22_S2V", "WAN22_S2V", audio_dim=32, audio_inject_layers=[0, 2])
    audio = random(1, 25, 32, 16, seed=26)
    extra = {"reference_latents": [frames(1, seed=21)], "reference_motion": frames(19, seed=27)}
    extra |= {"control_video": frames(seed=28), "audio_embed": audio}
    return sampled(model, negative={"audio_embed": torch.zeros_like(audio)}, **extra)


def animate() -> Sampled:
    """The character's image is the first frame; faces drive the rest."""

    import comfy.ldm.wan.model_animate as host

    def narrow_faces(network: Any) -> None:
        settings = {"dtype": network.dtype, "operations": comfy.ops.manual_cast}
        layers = [host.ConvLayer(3, 4, 1, **settings)]
        layers += [host.ResBlock(4, 4, **settings) for _ in range(2)]
        layers += [host.EqualConv2d(4, 512, 4, bias=False, **settings)]
        network.motion_encoder.enc.net_app.convs = torch.nn.ModuleList(layers)

    model = wan("WAN22_Animate", "WAN22_Animate", in_dim=36, num_layers=5, shrink=narrow_faces)
    faces = random(1, 3, 13, 16, 16, seed=29).clamp(-1.0, 1.0)
    mask = torch.ones(1, 4, 5, 8, 8)
    mask[:, :, :1] = 0.0
    extra = {"concat_latent_image": frames(5), "concat_mask": mask, "pose_video_latent": frames(seed=28)}
    extra |= {"clip_vision_output": clip_vision(), "face_video_pixels": faces}
    no_faces = {"face_video_pixels": torch.full_like(faces, -1.0)}
    return sampled(model, empty_latent(1, 16, 5, 8, 8), negative=no_faces, **extra)


def animate_2() -> Sampled:
    model = wan("WAN_Animate2", "WAN_Animate2", in_dim=36)
    extra = start_image(5) | {"clip_vision_output": clip_vision(), "pose_video_latent": frames(seed=28)}
    return sampled(model, empty_latent(1, 16, 5, 8, 8), clip_vision_output_pose=clip_vision(seed=31), **extra)


def five_b() -> Sampled:
    """Wan 2.2 5B from an image: the known first frame gives every frame a time of its own."""
    mask = torch.ones(1, 1, 4, 8, 8)
    mask[:, :, 0] = 0.0
    model = wan("WAN22_T2V", "WAN22", in_dim=48, out_dim=48)
    return sampled(model, {"samples": frames(channels=48), "noise_mask": mask})


def scail() -> Sampled:
    model = wan("WAN21_SCAIL", "WAN21_SCAIL", in_dim=20)
    extra = {"reference_latents": [frames(1, seed=21)], "pose_video_latent": frames(seed=28, size=4)}
    return sampled(model, clip_vision_output=clip_vision(), **extra)


def scail_2() -> Sampled:
    """Masks of the people besides, in 28 channels."""
    model = wan("WAN21_SCAIL2", "WAN21_SCAIL2", in_dim=20)
    extra = {"reference_latents": [frames(1, seed=21)], "pose_video_latent": frames(seed=28, size=4)}
    extra |= {"driving_mask_28ch": random(1, 4, 28, 4, 4, seed=32), "ref_mask_28ch": random(1, 5, 28, 8, 8, seed=33)}
    return sampled(model, clip_vision_output=clip_vision(), ref_mask_flag=True, **extra)


def wan_dancer() -> Sampled:
    music = {"music_dim": 32, "music_heads": 2, "music_latent_dim": 32, "audio_inject_layers": [0, 2]}
    model = wan("WAN22_WanDancer", "WAN22_WanDancer", in_dim=36, **music)
    extra = {"clip_vision_output": clip_vision(), "clip_vision_output_ref": clip_vision(seed=31), "fps": 30.0}
    extra |= start_image() | {"audio_embed": random(1, 20, 35, seed=26), "audio_inject_scale": 1.0}
    return sampled(model, **extra)


WAN = [
    ZooModel("Wan 2.1 text to video", "video", "WAN21", text_to_video),
    ZooModel("Wan 2.1 image to video", "video", "WAN21", image_to_video),
    ZooModel("Wan 2.1 first and last frame", "video", "WAN21", first_and_last_frame),
    ZooModel("Wan 2.1 Fun Control", "video", "WAN21", fun_control),
    ZooModel("Wan 2.1 Phantom", "video", "WAN21", phantom),
    ZooModel("Wan 2.1 Bernini", "video", "WAN21", bernini),
    ZooModel("Wan 2.1 InfiniteTalk", "video", "WAN21", infinite_talk),
    ZooModel("Wan 2.1 CausalAR", "video", "WAN21_CausalAR", causal),
    ZooModel("Wan 2.1 FlowRVS", "video", "WAN21_FlowRVS", flow_rvs),
    ZooModel("Wan 2.1 VACE", "video", "WAN21_Vace", vace),
    ZooModel("Wan 2.1 Fun Camera", "video", "WAN21_Camera", camera),
    ZooModel("Wan 2.1 HuMo", "video", "WAN21_HuMo", humo),
    ZooModel("Wan 2.1 SCAIL", "video", "WAN21_SCAIL", scail),
    ZooModel("Wan 2.1 SCAIL-2", "video", "WAN21_SCAIL2", scail_2),
    ZooModel("Wan 2.2 image to video", "video", "WAN21", image_to_video_22),
    ZooModel("Wan 2.2 Fun Control", "video", "WAN21", fun_control_22),
    ZooModel("Wan 2.2 Fun Camera", "video", "WAN21_Camera", camera_22),
    ZooModel("Wan 2.2 5B image to video", "video", "WAN22", five_b),
    ZooModel("Wan 2.2 S2V", "video", "WAN22_S2V", speech_to_video),
    ZooModel("Wan 2.2 Animate", "video", "WAN22_Animate", animate),
    ZooModel("Wan Animate 2", "video", "WAN_Animate2", animate_2),
    ZooModel("WanDancer", "video", "WAN22_WanDancer", wan_dancer),
]
