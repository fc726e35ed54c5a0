"""The frozen Whisper encoder, with two back ends and a cache of what it computed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import WhisperFeatureExtractor
from transformers.utils import logging as transformers_logging

from kappa_lib import paths
from kappa_lib.errors import AssetError
from kappa_lib.files import fingerprint, sha256
from kappa_lib.progress import Progress
from kappa_lib.speech.audio import RATE
from kappa_lib.text import counted
from kappa_lib.weights import assets, models
from kappa_lib.weights.safetensors_files import load_tensors, save_tensors

DEFAULT = "whisper-base"
MAX_SECONDS = 30.0
HOP = 160
# CTranslate2 takes windows shorter than 30 s when their number of mel frames is a multiple of 8.
FRAME_MULTIPLE = 8
SHARD = 1000  # utterances a file of the cache; 2 GB at most of Whisper large's features at 15 s


def log_mel(audio: np.ndarray, bands: int = 80) -> np.ndarray:
    """Whisper's log-mel spectrogram of one utterance, padded to a multiple of 8 frames.

    Of (samples,) float32 at 16 kHz, at most 30 s, it is (bands, frames) float32, 100 frames per
    second; large-v3 has 128 bands.
    """
    padded = np.pad(audio, (0, -audio.size % (HOP * FRAME_MULTIPLE)))
    extractor = WhisperFeatureExtractor(feature_size=bands)
    features = extractor(padded, sampling_rate=RATE, padding=False, return_tensors="np")
    return features["input_features"][0]


class CTranslate2Encoder:
    """Whisper's encoder from a CTranslate2 folder, in fp32, always on the CPU.

    On CUDA it would load cuBLAS 12, which newer torch does not bring (OpenNMT/CTranslate2#1933).
    """

    def __init__(self, folder: Path) -> None:
        import ctranslate2  # heavy, and the other back end does without

        self._ct2, threads = ctranslate2, torch.get_num_threads()
        how = {"device": "cpu", "compute_type": "float32", "intra_threads": threads}
        self._model = ctranslate2.models.Whisper(str(folder), **how)
        self.bands = self._model.n_mels

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """(samples,) → (frames, width) float32, 50 frames a second."""
        mel = np.ascontiguousarray(log_mel(audio, self.bands)[None])
        output = self._model.encode(self._ct2.StorageView.from_array(mel), to_cpu=True)
        return np.asarray(output, dtype=np.float32)[0]


class TransformersEncoder:
    """Whisper's encoder from a Hugging Face folder or model hub id, in fp32.

    The decoder, the larger part of a checkpoint, is never read. AssetError where the weights can't
    be had or are not those of a Whisper model.
    """

    def __init__(self, source: Path | str, device: str = "cpu") -> None:
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        class EncoderOnly(WhisperEncoder):
            _keys_to_ignore_on_load_unexpected = ("decoder", "proj_out")

        transformers_logging.disable_progress_bar()
        folder = paths.expanded(source)
        folder = folder if folder.is_dir() else models.snapshot(str(source))
        with models.explained(source):
            encoder, found = EncoderOnly.from_pretrained(
                folder,
                dtype=torch.float32,
                key_mapping={r"^(model\.)?encoder\.": ""},
                output_loading_info=True,
            )
        if found["missing_keys"]:
            # transformers would go on with random numbers in their place.
            raise AssetError(
                f"{source}: {counted(len(found['missing_keys']), 'tensor')} of a Whisper encoder"
                f" missing, {sorted(found['missing_keys'])[0]} among them",
                "name a Whisper model",
            )
        self._encoder = encoder.eval().requires_grad_(False).to(device)
        self.bands = encoder.config.num_mel_bins

    @torch.inference_mode()
    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """(samples,) → (frames, width) float32, 50 frames a second."""
        model, mel = self._encoder, torch.from_numpy(log_mel(audio, self.bands))[None]
        mel = mel.to(model.device)
        hidden = torch.nn.functional.gelu(model.conv1(mel))
        hidden = torch.nn.functional.gelu(model.conv2(hidden)).transpose(1, 2)
        # The module insists on 30 s; shorter windows take the first positions, as CTranslate2 does.
        hidden = hidden + model.embed_positions.weight[: hidden.shape[1]]
        for layer in model.layers:
            hidden = layer(hidden, None)
        return model.layer_norm(hidden)[0].float().cpu().numpy()


Encoder = CTranslate2Encoder | TransformersEncoder


def load(encoder: str, device: str = "cpu") -> Encoder:
    """The encoder that a profile names: the pinned asset, a local folder, or a model hub id."""
    folder = assets.WHISPER_BASE.get() if encoder == DEFAULT else paths.expanded(encoder)
    if (folder / "model.bin").is_file():
        return CTranslate2Encoder(folder)
    return TransformersEncoder(encoder, device)


def identity(encoder: str) -> str | dict[str, str]:
    """What pins an encoder, for caches: its name and revision, or its files' hashes.

    A model hub id that is not pinned is known by the commit that was fetched.
    """
    if encoder == DEFAULT:
        return encoder
    folder = paths.expanded(encoder)
    if folder.is_dir():
        return {path.name: sha256(path) for path in models.parts(folder)}
    if revision := models.REVISIONS.get(encoder):
        return f"{encoder}@{revision}"
    return {"hub": encoder, "revision": models.snapshot(encoder).name}


def encode_all(
    items: Sequence[Any],
    decode: Callable[[Any], np.ndarray],
    key: dict,
    make_encoder: Callable[[], Encoder],
    what: str,
) -> list[torch.Tensor]:
    """Encode utterances once; later calls with the same ``key`` read the cache.

    The cache, named by ``key`` (what decides the result), is a file for every ``SHARD`` utterances:
    an interrupted call goes on with the next one. ``decode`` gives an item's (samples,) float32 at
    16 kHz; ``make_encoder`` is called where there is something to encode, ``what`` names the stage.

    Returns:
        One (frames, width) float16 tensor per utterance, the precision of the weights. They are
        mapped from the disk, so that a corpus may be larger than the memory.

    Raises:
        SpaceError: the disk cannot hold the next file; the finished ones stay.
        CheckpointError: a file of the cache is damaged.
    """
    stem, count = fingerprint(key)[:16], -(-len(items) // SHARD)
    names = [stem] if count == 1 else [f"{stem}-{number:05d}" for number in range(count)]
    shards = [paths.cache() / "features" / f"{name}.safetensors" for name in names]
    for number, path in enumerate(shards):
        if not path.is_file():
            encoder, arrays = make_encoder(), {}
            for i in Progress(what, items=range(len(items))[number * SHARD :][:SHARD]):
                arrays[f"{i:06d}"] = torch.from_numpy(encoder(decode(items[i])).astype(np.float16))
            save_tensors(path, arrays)
    stored = [load_tensors(path) for path in shards]
    return [shard[name] for shard in stored for name in sorted(shard)]
