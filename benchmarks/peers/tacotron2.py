"""Tacotron 2 in PyTorch, with the layers, the names and the order of computing of NVIDIA's code.

text i32[B, T]; mels f32[B, bands, F]. The prenet's dropout is drawn by `mask(step, layer, x)`, or by PyTorch.
"""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

Mask = Callable[[int, int, torch.Tensor], torch.Tensor]


class Linear(nn.Module):
    def __init__(self, inputs, outputs, bias=True):
        super().__init__()
        self.linear_layer = nn.Linear(inputs, outputs, bias=bias)

    def forward(self, x):
        return self.linear_layer(x)


class Conv(nn.Module):
    def __init__(self, inputs, outputs, size, bias=True):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, size, padding=size // 2, bias=bias)

    def forward(self, x):
        return self.conv(x)


def convolutions(widths, size):
    return nn.ModuleList(nn.Sequential(Conv(a, b, size), nn.BatchNorm1d(b)) for a, b in itertools.pairwise(widths))


class Encoder(nn.Module):
    def __init__(self, width, layers, size):
        super().__init__()
        self.convolutions = convolutions([width] * (layers + 1), size)
        self.lstm = nn.LSTM(width, width // 2, 1, batch_first=True, bidirectional=True)

    def forward(self, x, lengths=None):
        for layer in self.convolutions:
            x = F.dropout(F.relu(layer(x)), 0.5, self.training)
        x = x.transpose(1, 2)
        if lengths is None:
            return self.lstm(x)[0]
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]


class Location(nn.Module):
    def __init__(self, filters, size, width):
        super().__init__()
        self.location_conv = Conv(2, filters, size, bias=False)
        self.location_dense = Linear(filters, width, bias=False)

    def forward(self, weights):
        return self.location_dense(self.location_conv(weights).transpose(1, 2))


class Attention(nn.Module):
    def __init__(self, rnn, encoder, width, filters, size):
        super().__init__()
        self.query_layer = Linear(rnn, width, bias=False)
        self.memory_layer = Linear(encoder, width, bias=False)
        self.v = Linear(width, 1, bias=False)
        self.location_layer = Location(filters, size, width)

    def forward(self, query, memory, processed, before, padding):
        hidden = self.query_layer(query.unsqueeze(1)) + self.location_layer(before) + processed
        energies = self.v(torch.tanh(hidden)).squeeze(-1)
        if padding is not None:
            energies = energies.masked_fill(padding, -float("inf"))
        weights = F.softmax(energies, dim=1)
        return torch.bmm(weights.unsqueeze(1), memory).squeeze(1), weights


class Prenet(nn.Module):
    def __init__(self, inputs, widths):
        super().__init__()
        self.layers = nn.ModuleList(Linear(a, b, bias=False) for a, b in zip([inputs, *widths], widths))

    def forward(self, x, step, mask: Mask | None):
        for i, layer in enumerate(self.layers):
            x = F.relu(layer(x))
            x = F.dropout(x, 0.5, True) if mask is None else x * mask(step, i, x)
        return x


class Decoder(nn.Module):
    def __init__(self, bands, r, encoder, prenet, rnn, attention, filters, size, decoder_rnn):
        super().__init__()
        self.bands, self.r = bands, r
        self.prenet = Prenet(bands * r, prenet)
        self.attention_rnn = nn.LSTMCell(prenet[-1] + encoder, rnn)
        self.attention_layer = Attention(rnn, encoder, attention, filters, size)
        self.decoder_rnn = nn.LSTMCell(rnn + encoder, decoder_rnn)
        self.linear_projection = Linear(decoder_rnn + encoder, bands * r)
        self.gate_layer = Linear(decoder_rnn + encoder, 1)

    def begin(self, memory, padding):
        batch, length, width = memory.shape
        self.memory, self.padding = memory, padding
        self.processed = self.attention_layer.memory_layer(memory)
        zeros = memory.new_zeros
        self.h, self.c = zeros(batch, self.attention_rnn.hidden_size), zeros(batch, self.attention_rnn.hidden_size)
        self.d, self.e = zeros(batch, self.decoder_rnn.hidden_size), zeros(batch, self.decoder_rnn.hidden_size)
        self.context, self.weights, self.total = zeros(batch, width), zeros(batch, length), zeros(batch, length)

    def step(self, x):
        self.h, self.c = self.attention_rnn(torch.cat((x, self.context), -1), (self.h, self.c))
        self.h = F.dropout(self.h, 0.1, self.training)
        before = torch.stack((self.weights, self.total), dim=1)
        self.context, self.weights = self.attention_layer(self.h, self.memory, self.processed, before, self.padding)
        self.total = self.total + self.weights
        self.d, self.e = self.decoder_rnn(torch.cat((self.h, self.context), -1), (self.d, self.e))
        self.d = F.dropout(self.d, 0.1, self.training)
        joint = torch.cat((self.d, self.context), dim=1)
        return self.linear_projection(joint), self.gate_layer(joint), self.weights

    def forward(self, memory, mels, padding, mask: Mask | None = None):
        """mels and gates of all steps, each given the group before."""
        batch = memory.shape[0]
        groups = mels.transpose(1, 2).reshape(batch, -1, self.bands * self.r).transpose(0, 1)
        before = torch.cat((groups.new_zeros(1, *groups.shape[1:]), groups[:-1]))
        self.begin(memory, padding)
        inputs = self.prenet(before, -1, mask)
        return self._joined([self.step(x) for x in inputs], batch)

    def inference(self, memory, most, threshold=0.5, mask: Mask | None = None):
        self.begin(memory, None)
        group, found = memory.new_zeros(memory.shape[0], self.bands * self.r), []
        while True:
            found.append(self.step(self.prenet(group, len(found), mask)))
            group, gate, _ = found[-1]
            if torch.sigmoid(gate).item() > threshold or len(found) == most:
                return self._joined(found, memory.shape[0])

    def _joined(self, steps, batch):
        mels, gates, weights = (torch.stack(part) for part in zip(*steps))
        mels = mels.transpose(0, 1).reshape(batch, -1, self.bands).transpose(1, 2)
        return mels, gates[..., 0].T, weights.transpose(0, 1)


class Postnet(nn.Module):
    def __init__(self, bands, width, layers, size):
        super().__init__()
        self.convolutions = convolutions([bands, *[width] * (layers - 1), bands], size)

    def forward(self, x):
        for layer in self.convolutions[:-1]:
            x = F.dropout(torch.tanh(layer(x)), 0.5, self.training)
        return F.dropout(self.convolutions[-1](x), 0.5, self.training)


class Tacotron2(nn.Module):
    """The sizes are those of `jaxgen.nets.tacotron2.Tacotron2Net`, by the same names."""

    def __init__(
        self, vocab=148, bands=80, reduction=1, encoder=512, encoder_layers=3, encoder_size=5, prenet=(256, 256),
        attention_rnn=1024, attention=128, location_filters=32, location_size=31, decoder_rnn=1024, postnet=512,
        postnet_layers=5, postnet_size=5,
    ):  # fmt: skip
        super().__init__()
        self.embedding = nn.Embedding(vocab, encoder)
        self.encoder = Encoder(encoder, encoder_layers, encoder_size)
        self.decoder = Decoder(
            bands, reduction, encoder, prenet, attention_rnn, attention, location_filters, location_size, decoder_rnn
        )
        self.postnet = Postnet(bands, postnet, postnet_layers, postnet_size)

    def forward(self, text, lengths, mels, mask: Mask | None = None):
        """Mels before and after the postnet, gates and alignments of a batch, given the true mels."""
        memory = self.encoder(self.embedding(text).transpose(1, 2), lengths)
        padding = torch.arange(memory.shape[1], device=text.device)[None] >= lengths[:, None]
        before, gates, weights = self.decoder(memory, mels, padding, mask)
        return before, before + self.postnet(before), gates, weights

    @torch.no_grad()
    def inference(self, text, most, threshold=0.5, mask: Mask | None = None):
        """The same of one text, until the gate says so, or for `most` steps."""
        memory = self.encoder(self.embedding(text).transpose(1, 2))
        before, gates, weights = self.decoder.inference(memory, most, threshold, mask)
        return before, before + self.postnet(before), gates, weights

    def loss(self, text, lengths, mels, mel_lengths):
        """2 MSE + BCE over padded arrays, as NVIDIA's code has it: past their ends frames count as zero and gates as
        one."""
        before, after, gates, _ = self(text, lengths, mels)
        padding = torch.arange(mels.shape[2])[None] >= mel_lengths[:, None]
        target = (torch.arange(gates.shape[1])[None] >= mel_lengths[:, None] // self.decoder.r - 1).float()
        before, after = (x.masked_fill(padding[:, None], 0.0) for x in (before, after))
        gates = gates.masked_fill(padding[:, :: self.decoder.r], 1e3)
        mels = mels.masked_fill(padding[:, None], 0.0)
        return F.mse_loss(before, mels) + F.mse_loss(after, mels) + F.binary_cross_entropy_with_logits(gates, target)
