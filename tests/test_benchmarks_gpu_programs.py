import jax
import jax.numpy as jnp
import pytest

from benchmarks import _gpu_programs

# A loop of three turns over 16 rows of 4: a turn reads one row and updates it in place.
# Before it a product, whose second result is room to work in.
PROGRAM = """
%fused_slice (param_0: f32[16,4], param_1: s32[]) -> f32[16,4] {
  %param_0 = f32[16,4]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,4]{1,0} dynamic-slice(%param_0, %param_1, %zero), dynamic_slice_sizes={1,4}
  %twice = f32[1,4]{1,0} add(%row, %row)
  ROOT %out = f32[16,4]{1,0} dynamic-update-slice(%param_0, %twice, %param_1, %zero)
}

%body (state: (s32[], f32[16,4])) -> (s32[], f32[16,4]) {
  %state = (s32[], f32[16,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[16,4]{1,0} get-tuple-element(%state), index=1
  %new = f32[16,4]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused_slice
  ROOT %next = (s32[], f32[16,4]{1,0}) tuple(%i, %new)
}

ENTRY %main (x: f32[16,16], y: f32[16,4]) -> f32[16,4] {
  %x = f32[16,16]{1,0} parameter(0)
  %y = f32[16,4]{1,0} parameter(1)
  %i = s32[] constant(0)
  %product = (f32[16,4]{1,0}, s8[100]{0}) custom-call(%x, %y), custom_call_target="gemm"
  %z = f32[16,4]{1,0} get-tuple-element(%product), index=0
  %state = (s32[], f32[16,4]{1,0}) tuple(%i, %z)
  %loop = (s32[], f32[16,4]{1,0}) while(%state), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %end = f32[16,4]{1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501 - as XLA writes it.


def test_kernels_and_the_memory_they_move_are_counted():
    counts = _gpu_programs.count(PROGRAM)
    assert counts.kernels == 1 + 3
    # The product reads 16 x 16 and 16 x 4; a turn a row of 4 and a number.
    assert counts.read_bytes == 4 * (256 + 64) + 3 * 4 * (4 + 1)
    assert counts.written_bytes == 4 * 64 + 100 + 3 * 4 * 4


CHOICE = """
%first (a: f32[16]) -> f32[16] {
  %a = f32[16]{0} parameter(0)
  ROOT %b = f32[16]{0} copy(%a)
}

%second (a: f32[16]) -> f32[16] {
  %a = f32[16]{0} parameter(0)
  %b = f32[16]{0} copy(%a)
  ROOT %c = f32[16]{0} copy(%b)
}

ENTRY %main (p: pred[], a: f32[16]) -> f32[16] {
  %p = pred[] parameter(0)
  %a = f32[16]{0} parameter(1)
  ROOT %c = f32[16]{0} conditional(%p, %a, %a), BRANCHES
}
"""


@pytest.mark.parametrize(
    "branches",
    [
        "true_computation=%second, false_computation=%first",
        "branch_computations={%first, %second}",
    ],
)
def test_of_a_choice_the_larger_branch_counts(branches):
    counts = _gpu_programs.count(CHOICE.replace("BRANCHES", branches))
    assert counts == _gpu_programs.Counts(2.0, 2 * 64, 2 * 64)


def test_a_step_is_compiled_for_a_gpu_that_is_not_there():
    pytest.importorskip("jax_plugins.xla_cuda12", reason="needs the cuda extra")
    x = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    program = _gpu_programs.compile_for_h100(
        lambda x, y: (x + y, x * y), x, x, donate=1
    )
    counts = _gpu_programs.count(program.as_text())
    assert counts.kernels >= 1
    assert counts.read_bytes >= 2 * x.size * 4
    assert counts.written_bytes >= 2 * x.size * 4
