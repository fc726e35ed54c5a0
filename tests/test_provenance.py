import torch

from kappa_lib import provenance


def test_vector_instructions_are_those_that_pytorch_computes_with():
    found = provenance.describe()["instructions"]
    capability = torch.backends.cpu.get_cpu_capability()
    assert ("avx512_f" in found) == (capability == "AVX512")
    assert ("avx2" in found) == (capability in ("AVX2", "AVX512"))
