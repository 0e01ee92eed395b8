"""`answer`: the span of a text that answers a question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from minitrans.cli import options
from minitrans.cli.options import Runtime
from minitrans.cli.reading import checked, read_whole
from minitrans.cli.writing import Row, json_numbers, progress, show

if TYPE_CHECKING:
    from torch import Tensor

    from minitrans.cli.loading import Loaded
    from minitrans.tokenizers.batch_encoding import BatchEncoding

CANDIDATES = 1000  # spans that are looked at for the best few; the others are less likely than all of these


def answer(
    model: options.Model,
    question: Annotated[str, typer.Option("--question", "-q", metavar="TEXT", help="What to look for.")],
    context: Annotated[
        str | None, typer.Option("--context", "-c", metavar="TEXT", help="The text that may hold the answer.")
    ] = None,
    context_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Read that text from a file; - is standard input.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=100, help="How many answers to show.")] = 3,
    max_answer_tokens: Annotated[int, typer.Option(min=1, max=512, help="The longest answer.")] = 30,
    stride: Annotated[int, typer.Option(min=0, help="Tokens that two windows of a long text share.")] = 128,
    as_json: options.AsJson = False,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    attention: options.AttentionName = None,
    backend: options.Backend = "auto",
    batch_size: options.BatchSize = 8,
    threads: options.Threads = None,
) -> None:
    """Find the answer to a question in a text, of whatever length.

    Columns: probability among all spans of the text, first character, character after the last, answer.
    Answers do not overlap.

    Examples:

        minitrans answer -q "Where was she born?" -c "Ada was born in London." --model ./squad

        minitrans answer -q "Who wrote it?" --context-file book.txt --model ./squad --top-k 1 --json
    """
    checked(question, "--question")
    if (context is None) == (context_file is None):
        found = "neither" if context is None else "both"
        raise ValueError(f"give the text with --context or with --context-file, got {found}")
    text = read_whole(context_file) if context_file is not None else checked(context or "", "--context")
    runtime = Runtime(
        model=model, device=device, dtype=dtype, attention=attention, backend=backend, batch_size=batch_size,
        threads=threads,
    )  # fmt: skip
    from minitrans.cli.loading import load

    loaded = load(runtime, "AutoModelForQuestionAnswering")
    windows = loaded.tokenizer(
        question, text, truncation="only_second", max_length=loaded.max_length, stride=_fitting(stride, loaded, question),
        return_overflowing_tokens=True, return_offsets_mapping=True, padding=True, return_tensors="pt",
    )  # fmt: skip
    starts, ends = span_scores(loaded, windows, batch_size)
    rows: list[Row] = []
    for score, start, end in best_spans(text, windows, starts, ends, max_answer_tokens, top_k):
        rows.append(json_numbers({"score": score, "start": start, "end": end, "answer": text[start:end]}))
    show(rows, as_json=as_json, title=question)


def span_scores(loaded: Loaded, windows: BatchEncoding, batch_size: int) -> tuple[Tensor, Tensor]:
    """(windows, T) twice: the scores of every token as the first and as the last of the answer."""
    import torch

    from minitrans.cli.labels import require_finite

    model = loaded.model
    fields = {name: windows[name] for name in loaded.tokenizer.model_input_names if name in windows}
    count = len(windows["input_ids"])
    starts, ends = [], []
    with progress("reading", count) as advance, torch.inference_mode():
        for first in range(0, count, batch_size):
            part = {name: value[first : first + batch_size].to(model.device) for name, value in fields.items()}
            out = model(**part)
            starts.append(out.start_logits.to("cpu", torch.float64))
            ends.append(out.end_logits.to("cpu", torch.float64))
            advance(len(starts[-1]))
    require_finite(torch.cat([*starts, *ends]))
    return torch.cat(starts), torch.cat(ends)


def best_spans(
    text: str, windows: BatchEncoding, starts: Tensor, ends: Tensor, max_tokens: int, top_k: int
) -> list[tuple[float, int, int]]:
    """(probability, first character, character after the last) of the best spans that do not overlap.

    Spans lie in the context and have at most `max_tokens` tokens. The probability is the softmax of start + end score over
    all of them; that of a span that stands in several windows is the sum.
    """
    import torch

    from minitrans.cli.spans import without_space

    count, length = starts.shape
    context = torch.tensor([[part == 1 for part in windows.sequence_ids(row)] for row in range(count)])
    if not bool(context.any()):  # a text of which the tokenizer keeps nothing
        return []
    width = min(max_tokens, length)
    # (windows, T, width): entry w is the span of w + 1 tokens; a span that leaves the context scores -inf
    padded = torch.nn.functional.pad(ends.masked_fill(~context, float("-inf")), (0, width - 1), value=float("-inf"))
    scores = starts.masked_fill(~context, float("-inf")).unsqueeze(-1) + padded.unfold(1, width, 1)
    probabilities = scores.flatten().softmax(dim=0)
    best = probabilities.topk(min(CANDIDATES, probabilities.numel()))
    totals: dict[tuple[int, int], float] = {}
    offsets = windows["offset_mapping"]
    for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        row, token, extra = index // (length * width), index // width % length, index % width
        if probability == 0.0:
            break
        first, last = int(offsets[row, token, 0]), int(offsets[row, token + extra, 1])
        span = without_space(text, first, last), last
        if span[0] < span[1]:
            totals[span] = totals.get(span, 0.0) + probability
    chosen: list[tuple[float, int, int]] = []
    for (start, end), probability in sorted(totals.items(), key=lambda item: (-item[1], item[0])):
        if len(chosen) < top_k and all(end <= other[1] or start >= other[2] for other in chosen):
            chosen.append((probability, start, end))
    return chosen


def _fitting(stride: int, loaded: Loaded, question: str) -> int:
    """The stride, or half of what the question leaves of a window if that is less."""
    asked = len(loaded.tokenizer(question, add_special_tokens=False, verbose=False)["input_ids"])
    room = loaded.max_length - asked - loaded.tokenizer.num_special_tokens_to_add(pair=True)
    if room < 1:
        raise ValueError(
            f"--question: expected one that leaves room in {loaded.max_length} tokens, found {asked} tokens"
        )
    return min(stride, room // 2)
