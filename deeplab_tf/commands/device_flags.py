"""The first line of every command that computes: its devices, and a card it misses."""

from __future__ import annotations

from absl import flags

from deeplab_tf.devices.memory import set_memory
from deeplab_tf.devices.present import count_cores, describe, find_cards, offer_bfloat16
from deeplab_tf.devices.unseen import explain_unseen_card, installed_build

# --help shows them as flags of the command that defines them by this module.
flags.disclaim_key_flags()


def define_device_flags() -> None:
    flags.DEFINE_integer(
        "gpu_memory_limit", None, "Memory to take of each GPU, in MB [all it has].", 1
    )


def begin_on_devices(
    values: flags.FlagValues,
    *,
    all_cards: bool = False,
    cpu_parts: int = 1,
    precision: str = "",
) -> None:
    """Sets how GPU memory is taken, and prints what the command computes on.

    Call it before anything touches a device.

    Args:
      values: of `define_device_flags`.
      all_cards: whether it computes on every GPU.
      cpu_parts: devices that the CPU is split into.
      precision: of a new training, which may be offered another; "" for the rest.
    """
    set_memory(values.gpu_memory_limit)
    cards = find_cards()
    line = describe(cards, count_cores(), all_cards=all_cards, parts=cpu_parts)
    if cards and values.gpu_memory_limit:
        line += f" At most {values.gpu_memory_limit} MB of each are taken."
    offer = "" if cpu_parts > 1 else offer_bfloat16(cards, precision)
    unseen = "" if cards else explain_unseen_card(installed_build())
    print("\n".join(filter(None, [line, offer, unseen])), flush=True)


def begin_on_cpu(ending: str) -> None:
    """Prints what a file of a runtime is run on, whatever cards there are.

    Args:
      ending: of the file, such as ".onnx".
    """
    cores = count_cores()
    print(f"On the CPU, {cores} core{'s' * (cores > 1)}: {ending} files run there.")
