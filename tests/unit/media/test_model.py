"""The record of a model: equal by value, refused with a reason, light to import."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from poorwill.errors import UsageError
from poorwill.media.model import Memory, Model

LTX = "LTXImageToVideoPipeline"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LIGHT = ("model", "profiles", "parameters", "weights", "stop", "memory", "pipeline_cache", "process_state")
HEAVY = ("torch", "diffusers", "transformers", "PIL", "numpy")


def test_equal_records_are_one_key() -> None:
    """They find each other's pipeline, whatever the order of the defaults; any other value makes another model."""
    one = Model(LTX, "/w", defaults={"steps": 8, "fps": 24})
    same = Model(LTX, "/w", defaults={"fps": 24.0, "steps": 8})
    assert one == same and {one: "loaded"}[same] == "loaded"
    for other in (
        Model(LTX, "/w"),
        Model(LTX, "/v", defaults={"steps": 8, "fps": 24}),
        Model(LTX, "/w", memory=Memory(offload="group"), defaults={"steps": 8, "fps": 24}),
        Model(LTX, "/w", dtype="float16", defaults={"steps": 8, "fps": 24}),
    ):
        assert other not in {one: "loaded"}


def test_a_record_stays_what_it_is() -> None:
    """Nothing that was given can change it later."""
    defaults = {"steps": 8}
    model = Model(LTX, "/w", defaults=defaults)
    defaults["steps"] = 9
    assert dict(model.defaults) == {"steps": 8}
    with pytest.raises(FrozenInstanceError):
        model.source = "/v"  # type: ignore[misc]


def test_a_model_with_every_field_other_than_its_default() -> None:
    """Its fields do not exclude each other."""
    model = Model(
        "HunyuanSkyreelsImageToVideoPipeline",
        "hunyuanvideo-community/HunyuanVideo",
        COMMIT,
        "Skywork/SkyReels-V1-Hunyuan-I2V",
        COMMIT[::-1],
        "float16",
        Memory("group", False, "4bit", "flash", True),
        {"steps": 30, "guidance": 4.5},
    )
    model.check()
    assert dict(model.defaults) == {"guidance": 4.5, "steps": 30}


@pytest.mark.parametrize(
    "model",
    [
        Model(LTX, "Lightricks/LTX-Video", COMMIT),
        Model(LTX, "/weights/ltx"),
        Model(LTX, "store:models/ltx-0.9.5"),
        Model(LTX, "/w", transformer="store:models/transformer"),
        Model(LTX, "/w", transformer="Lightricks/LTX-Video", transformer_revision=COMMIT),
        Model(LTX, "/w", defaults={"size_multiple": 64, "frames_max": 9, "guidance": 2.5}),
        Model(LTX, "/w", memory=Memory("sequential", quantization="none", attention="_native_cudnn")),
    ],
)
def test_valid_models(model: Model) -> None:
    """Every kind of source, and every field that may be adjusted."""
    model.check()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Model("Nonsense", "/w"), "profiles.register"),
        (Model(LTX, "Lightricks/LTX-Video"), "revision=''"),
        (Model(LTX, "Lightricks/LTX-Video", "main"), "40 hexadecimal digits"),
        (Model(LTX, "Lightricks/LTX-Video", COMMIT.upper()), "40 hexadecimal digits"),
        (Model(LTX, "LTX-Video", COMMIT), "expected 'organisation/name'"),
        (Model(LTX, "a/b/c", COMMIT), "expected 'organisation/name'"),
        (Model(LTX, "../secrets", COMMIT), "expected 'organisation/name'"),
        (Model(LTX, "a/..", COMMIT), "expected 'organisation/name'"),
        (Model(LTX, "", COMMIT), "expected 'organisation/name'"),
        (Model(LTX, "/w", COMMIT), "leave it out"),
        (Model(LTX, "/w\0"), "NUL"),
        (Model(LTX, "store:p", COMMIT), "leave it out"),
        (Model(LTX, "store:"), "not a prefix"),
        (Model(LTX, "store:a/../b"), "not a prefix"),
        (Model(LTX, "/w", transformer="a/b"), "transformer_revision=''"),
        (Model(LTX, "/w", transformer_revision=COMMIT), "without a transformer"),
        (Model(LTX, "/w", dtype="float64"), "dtype='float64'"),
        (Model(LTX, "/w", memory=Memory(offload="disk")), "memory.offload='disk'"),
        (Model(LTX, "/w", memory=Memory(quantization="int4")), "memory.quantization='int4'"),
        (Model(LTX, "/w", memory=Memory(attention="sage_hub")), "memory.attention='sage_hub'"),
        (Model(LTX, "/w", memory=Memory("sequential", quantization="fp8")), "use offload 'group'"),
        (Model(LTX, "/w", memory=Memory("sequential", compile=True)), "exclude each other"),
        (Model(LTX, "/w", defaults={"colour": 3}), "'colour' is not one of"),
        (Model(LTX, "/w", defaults={"steps": -1}), "steps=-1"),
        (Model(LTX, "/w", defaults={"steps": True}), "steps=True"),
        (Model(LTX, "/w", defaults={"fps": float("nan")}), "fps=nan"),
    ],
)
def test_invalid_models_say_why(model: Model, said: str) -> None:
    """Also for near misses: a branch instead of a commit, a kernel that would be fetched as code."""
    with pytest.raises(UsageError) as refused:
        model.check()
    assert said in refused.value.message


def test_all_faults_in_one_error() -> None:
    """So that a user can mend all of them at once."""
    with pytest.raises(UsageError) as refused:
        Model(LTX, "a/b", "main", dtype="int8", memory=Memory(offload="disk"), defaults={"colour": 3}).check()
    assert len(refused.value.facts["faults"]) == 4


def test_the_light_modules_load_nothing_heavy() -> None:
    """The API and the command line import them for each request; torch alone takes seconds."""
    script = f"import sys\nfor name in {LIGHT}: __import__('poorwill.media.' + name)\n"
    script += f"print([name for name in {HEAVY} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "[]"
