"""What becomes of every layer: the plan of widths that a build follows and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sgsc_edge.size import WIDE_BITS, Storage


@dataclass(frozen=True)
class Option:
    """One way to store a layer's weights.

    Parameters
    ----------
    bytes: of weights, biases and their scales, and of what a second width adds beside them.
    loss: estimated rise of the loss, nats a sample.
    """

    storage: Storage
    bytes: int
    loss: float


@dataclass(frozen=True)
class LayerPlan:
    """What becomes of one layer.

    Parameters
    ----------
    inputs, outputs: channels that stay.
    depths: smallest, mean and largest learned depth of the channels that stay.
    options: what could be had, 8 bits first; ``chosen`` is one of their storages.
    reason: in words.
    """

    name: str
    inputs: int
    outputs: int
    depths: tuple[float, float, float]
    options: tuple[Option, ...]
    chosen: Storage
    reason: str

    def __str__(self) -> str:
        least, mean, most = self.depths
        learned = f"depths {least:.1f} to {most:.1f} (mean {mean:.1f}), " if least < WIDE_BITS else ""
        flow = f"{self.inputs} -> {self.outputs} channels"
        shape = f"{self.outputs} rows of {self.inputs}" if self.chosen.table else flow
        return (
            f"{self.name}: {shape}, {learned}{self.chosen}, "
            f"{self.bytes:,} bytes (8 bits: {self.bytes_in_8_bits:,}); {self.reason}"
        )

    @property
    def bytes(self) -> int:
        """As chosen."""
        return self._option(self.chosen).bytes

    @property
    def bytes_in_8_bits(self) -> int:
        """With the same channels at 8 bits."""
        return self.options[0].bytes

    def wider(self, room: float) -> Option | None:
        """The smallest wider option that wins back half of what 8 bits would; None where none fits.

        Parameters
        ----------
        room: bytes that there are beside the present ones.
        """
        chosen, loss = self.chosen, self.loss_of(self.chosen)
        fitting = [
            option
            for option in self.options
            if option.bytes - self.bytes <= room and option.storage.is_wider_than(chosen)
        ]
        half = (loss - self.options[0].loss) / 2
        enough = [option for option in fitting if loss - option.loss >= half]
        if enough:
            return min(enough, key=lambda option: option.bytes)
        return min(fitting, key=lambda option: option.loss, default=None)

    def loss_of(self, storage: Storage) -> float:
        """The estimated loss of a storage."""
        return self._option(storage).loss

    def _option(self, storage: Storage) -> Option:
        return next(option for option in self.options if option.storage == storage)


@dataclass(frozen=True)
class Plan:
    """How every layer is stored; ``plan.json``."""

    layers: tuple[LayerPlan, ...]

    @property
    def bytes(self) -> int:
        """Of all layers, as chosen."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def bytes_in_8_bits(self) -> int:
        """Of all layers, at 8 bits."""
        return sum(layer.bytes_in_8_bits for layer in self.layers)

    @property
    def loss(self) -> float:
        """Estimated, of all layers as chosen, nats a sample."""
        return sum(layer.loss_of(layer.chosen) for layer in self.layers)

    def storages(self) -> dict[str, Storage]:
        """By layer name."""
        return {layer.name: layer.chosen for layer in self.layers}

    def widened(self, room: float) -> tuple[str, Plan] | None:
        """The plan with one layer stored wider, whole or in part, and its name; None where there is none.

        Of the layers that take at most ``room`` bytes more, it is the one that gains most for them.
        """
        gains = []
        for number, layer in enumerate(self.layers):
            if (option := layer.wider(room)) is not None:
                saved, more = layer.loss_of(layer.chosen) - option.loss, option.bytes - layer.bytes
                gains.append((saved / max(more, 1), number, option.storage))
        if not gains:
            return None
        *_, number, storage = max(gains)
        wider = replace(self.layers[number], chosen=storage, reason="the watch set had fallen at fewer bits")
        return wider.name, Plan((*self.layers[:number], wider, *self.layers[number + 1 :]))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        layers = [
            {**asdict(layer), "bytes": layer.bytes, "bytes_in_8_bits": layer.bytes_in_8_bits}
            for layer in self.layers
        ]
        return {"bytes": self.bytes, "bytes_in_8_bits": self.bytes_in_8_bits, "layers": layers}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Plan:
        """Take back :meth:`to_json`."""

        def storage(value: Mapping[str, Any]) -> Storage:
            wide, packed = tuple(value["wide"]), tuple(value["packed"])
            onnx = value.get("onnx", False)  # earlier files do not say it
            return Storage(value["bits"], value["per_channel"], wide, packed, value["table"], onnx)

        return Plan(
            tuple(
                LayerPlan(
                    row["name"],
                    row["inputs"],
                    row["outputs"],
                    tuple(row["depths"]),
                    tuple(Option(storage(o["storage"]), o["bytes"], o["loss"]) for o in row["options"]),
                    storage(row["chosen"]),
                    row["reason"],
                )
                for row in document["layers"]
            )
        )
