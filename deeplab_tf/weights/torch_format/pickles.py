"""A pickle's bytes in, records of tensors out: nothing that it asks for is called.

A pickle may call any function of Python, so this module never calls `pickle`. The
standard library's `pickletools` splits the stream into instructions; the few that
`torch.save` writes for tensors are carried out here, and each name in the stream is
looked up in the tables of `tensors`. Any other name stands for itself, a
`Skipped`: what is made of it is one too. Any other instruction stops the reading.
"""

from __future__ import annotations

import pickletools

from deeplab_tf.weights.torch_format.tensors import (
    FUNCTIONS,
    KNOWN_NAMES,
    STORAGES,
    Name,
    Skipped,
    Storage,
    checked_key,
    described,
    refusal,
    shortened,
)


def _instructions(stream):
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            yield opcode, argument
    except ValueError as error:
        raise ValueError(
            "its pickle is cut short or damaged "
            f"({shortened(str(error))}). Download it again."
        ) from error


class Unpickler:
    """Carries out the instructions that `torch.save` writes for tensors.

    Attributes:
      storages: storage key -> whole storage, of all that the pickle mentions.
    """

    def __init__(self):
        self.storages: dict[str, Storage] = {}
        self._stack: list = []
        self._marks: list[int] = []
        self._memo: dict = {}

    def load(self, stream):
        """Runs one pickle, and leaves the stream where the next one begins.

        Args:
          stream: BytesIO or mmap, whose read(n) never allocates more than is there.

        Raises:
          ValueError: an instruction or name that no file of tensors needs, or a damaged
            stream (then also LookupError or TypeError).
        """
        for opcode, argument in _instructions(stream):
            if opcode.name in _VALUES:
                self._stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name])
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            elif opcode.name not in _WITHOUT_EFFECT:
                raise ValueError(refusal(f"the instruction {opcode.name}"))
        return self._stack.pop()

    def _make(self, kind):
        self._stack.append(kind())

    def _mark(self):
        self._marks.append(len(self._stack))

    def _above_mark(self) -> list:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _top_two(self) -> list:
        second = self._stack.pop()
        return [self._stack.pop(), second]

    def _tuple(self, count):
        items = [self._stack.pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def _tuple_above_mark(self):
        self._stack.append(tuple(self._above_mark()))

    def _extend(self, items):
        if isinstance(self._stack[-1], Skipped):
            return
        if not isinstance(self._stack[-1], list):
            raise ValueError(f"it appends to {described(self._stack[-1])}.")
        self._stack[-1].extend(items)

    def _set_items(self, items):
        if isinstance(self._stack[-1], Skipped):
            return
        if not isinstance(self._stack[-1], dict):
            raise ValueError(f"it sets items of {described(self._stack[-1])}.")
        for key, value in zip(items[::2], items[1::2]):
            self._stack[-1][checked_key(key)] = value

    def _remember(self, index):
        self._memo[index] = self._stack[-1]

    def _recall(self, index):
        self._stack.append(self._memo[index])

    def _name(self, parts):
        if not all(isinstance(part, str) for part in parts):
            raise ValueError(refusal("a name that is no text"))
        text = ".".join(parts)
        kind = Name if text in KNOWN_NAMES else Skipped
        self._stack.append(kind(text))

    def _call(self, arguments):
        """REDUCE: a function of the table, on a tuple of arguments."""
        name = self._stack.pop()
        if isinstance(name, Skipped):
            self._stack.append(name)
            return
        if not isinstance(name, Name) or name.text not in FUNCTIONS:
            called = name.text if isinstance(name, Name) else described(name)
            raise ValueError(refusal(f"a call of {called}"))
        self._stack.append(FUNCTIONS[name.text](*arguments))

    def _build(self, state):
        """BUILD: an OrderedDict's attributes, `_metadata` of a state_dict. Dropped."""
        if not isinstance(self._stack[-1], (dict, Skipped)):
            raise ValueError(refusal(f"the state of {described(self._stack[-1])}"))

    def _new(self, instruction, count):
        """NEWOBJ, NEWOBJ_EX: an object of a class, which is under its arguments."""
        del self._stack[-count:]
        if not isinstance(self._stack[-1], Skipped):
            raise ValueError(refusal(f"the instruction {instruction}"))

    def _old_object(self, name):
        """INST and OBJ of protocol 0: a class, and its arguments above a mark."""
        above = self._above_mark()
        made = Skipped(name.replace(" ", ".")) if name else above[0]
        if not isinstance(made, Skipped):
            raise ValueError(refusal(f"an object of {described(made)}"))
        self._stack.append(made)

    def _skipped_set(self):
        self._above_mark()
        self._stack.append(Skipped("builtins.frozenset"))

    def _persistent_load(self, identifier):
        """Takes ("storage", type, key, device, count), in legacy files with a view.

        The view is None or, in old files, (its key, first element, count).
        """
        if not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
            raise ValueError(refusal("an object that is no storage"))
        kind, storage_type, key, _, count = identifier[:5]
        if (
            kind != "storage"
            or not isinstance(storage_type, Name)
            or storage_type.text not in STORAGES
            or not isinstance(key, str)
            or type(count) is not int
            or not 0 <= count < 2**63
        ):
            raise ValueError(refusal("an object that is no storage"))
        storage = Storage(key, STORAGES[storage_type.text], 0, count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {shortened(key)} has two types or sizes.")
        view = identifier[5] if len(identifier) == 6 else None
        self._stack.append(storage.part(*view[1:]) if view else storage)


# Instruction -> what it does to the unpickler, given the instruction's own argument.
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
    *("BINBYTES8", "BYTEARRAY8", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_WITHOUT_EFFECT = {"PROTO", "FRAME", "STOP"}
_STEPS = {
    "EMPTY_LIST": lambda self, _: self._make(list),
    "EMPTY_DICT": lambda self, _: self._make(dict),
    "EMPTY_SET": lambda self, _: self._stack.append(Skipped("builtins.set")),
    "ADDITEMS": lambda self, _: self._above_mark(),
    "FROZENSET": lambda self, _: self._skipped_set(),
    "INST": lambda self, names: self._old_object(names),
    "OBJ": lambda self, _: self._old_object(None),
    "NEWOBJ": lambda self, _: self._new("NEWOBJ", 1),
    "NEWOBJ_EX": lambda self, _: self._new("NEWOBJ_EX", 2),
    "MARK": lambda self, _: self._mark(),
    "TUPLE": lambda self, _: self._tuple_above_mark(),
    "TUPLE1": lambda self, _: self._tuple(1),
    "TUPLE2": lambda self, _: self._tuple(2),
    "TUPLE3": lambda self, _: self._tuple(3),
    "APPEND": lambda self, _: self._extend([self._stack.pop()]),
    "APPENDS": lambda self, _: self._extend(self._above_mark()),
    "SETITEM": lambda self, _: self._set_items(self._top_two()),
    "SETITEMS": lambda self, _: self._set_items(self._above_mark()),
    "BINPUT": lambda self, index: self._remember(index),
    "LONG_BINPUT": lambda self, index: self._remember(index),
    "MEMOIZE": lambda self, _: self._remember(len(self._memo)),
    "BINGET": lambda self, index: self._recall(index),
    "LONG_BINGET": lambda self, index: self._recall(index),
    "GLOBAL": lambda self, names: self._name(names.split(" ", 1)),
    "STACK_GLOBAL": lambda self, _: self._name(self._top_two()),
    "REDUCE": lambda self, _: self._call(self._stack.pop()),
    "BUILD": lambda self, _: self._build(self._stack.pop()),
    "BINPERSID": lambda self, _: self._persistent_load(self._stack.pop()),
}
