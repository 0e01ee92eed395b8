"""`classify`, `tag`, `answer` and `fill-mask`: the pipelines, on a command line."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from minitrans.cli import options
from minitrans.cli.errors import note
from minitrans.cli.options import Runtime, takes_model
from minitrans.cli.text import checked, given_texts, progress, read_whole, show

Texts = Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts, each in quotes.")]


@takes_model()
def classify(
    runtime: Runtime,
    texts: Texts = None,
    file: options.TextFile = None,
    pair: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A second text that goes with each of the first.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many classes to show.")] = 5,
    as_json: options.AsJson = False,
) -> None:
    """Classify texts, or pairs of texts.

    Columns: text number, class, score. The score is a probability; of a regression model it is the value itself.

    Examples:

        minitrans classify "A gripping film." --model ./sentiment

        minitrans classify --file reviews.txt -m ./sentiment -k 1 --json
    """
    given = given_texts(texts, file)
    second = {} if pair is None else {"text_pair": checked(pair, "--pair")}
    from minitrans.cli.loading import load_pipeline

    pipe = load_pipeline(runtime, "text-classification")
    with progress("classifying", len(given)) as advance:
        found = pipe(
            [{"text": text, **second} for text in given], top_k=top_k, truncation=True, progress=advance,
            function_to_apply="none" if pipe.is_regression else None,
        )  # fmt: skip
    if pipe.truncated:
        note(f"cut to {pipe.max_length} tokens: {pipe.truncated} of {len(given)} texts")
    show([{"number": number, **row} for number, rows in enumerate(found, start=1) for row in rows], as_json=as_json)


@takes_model()
def tag(runtime: Runtime, texts: Texts = None, file: options.TextFile = None, as_json: options.AsJson = False) -> None:
    """Mark words: names of people and places, parts of speech, whatever the model was trained for.

    A word has the class of its first token; B- and I- words of one class make one span; the class O is not shown.
    Columns: text number, class, first character, character after the last, score, text. Long texts run in windows.

    Examples:

        minitrans tag "Ada Lovelace was born in London." --model ./ner

        minitrans tag --file letters.txt --model ./ner --json
    """
    given = given_texts(texts, file)
    from minitrans.cli.loading import load_pipeline

    pipe = load_pipeline(runtime, "token-classification")
    with progress("tagging", len(given)) as advance:
        found = pipe(given, aggregation_strategy="words", stride=pipe.max_length // 4, progress=advance)
    rows = [
        {
            "number": number, "label": span["entity_group"], "start": span["start"], "end": span["end"],
            "score": span["score"], "text": span["word"],
        }
        for number, spans in enumerate(found, start=1)
        for span in spans
    ]  # fmt: skip
    show(rows, as_json=as_json)


@takes_model(batch_size=8)
def answer(
    runtime: Runtime,
    question: Annotated[str, typer.Option("--question", "-q", metavar="TEXT", help="What to look for.")],
    context: Annotated[
        str | None, typer.Option("--context", "-c", metavar="TEXT", help="The text that may hold the answer.")
    ] = None,
    context_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Read that text from a file; - is standard input.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=100, help="How many answers to show.")] = 3,
    max_answer_tokens: Annotated[int, typer.Option(min=1, max=512, help="The longest answer.")] = 30,
    stride: Annotated[
        int | None,
        typer.Option(min=0, help="Tokens that two windows of a long text share; default: 128, or half of them."),
    ] = None,
    may_be_none: Annotated[
        bool, typer.Option("--may-be-none", help="The text may hold no answer: that is one, an empty one.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Find the answer to a question in a text, of whatever length.

    Columns: probability among all spans of the text, first character, character after the last, answer.
    Answers do not overlap.

    Examples:

        minitrans answer -q "Born where?" -c "Ada is from London." -m ./squad

        minitrans answer -q "Who?" --context-file book.txt -m ./squad -k 1
    """
    checked(question, "--question")
    if (context is None) == (context_file is None):
        found = "neither" if context is None else "both"
        raise ValueError(f"give the text with --context or with --context-file, got {found}")
    text = read_whole(context_file) if context_file is not None else checked(context or "", "--context")
    from minitrans.cli.loading import load_pipeline

    pipe = load_pipeline(runtime, "question-answering")
    rows = pipe(
        question=question, context=text, top_k=top_k, doc_stride=stride, max_answer_len=max_answer_tokens,
        max_seq_len=pipe.max_length, joint=True, handle_impossible_answer=may_be_none,
    )  # fmt: skip
    show(rows, as_json=as_json, title=question)


@takes_model()
def fill_mask(
    runtime: Runtime,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts with the model's mask token in them.")
    ] = None,
    file: options.TextFile = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many words to show for a mask.")] = 5,
    as_json: options.AsJson = False,
) -> None:
    """Guess masked words. Every mask is filled by itself, while the others stay.

    Columns: text number, mask number, probability, token, text with the token in its place.

    Examples:

        minitrans fill-mask "Paris is the [MASK] of France." -m ./bert

        minitrans fill-mask "Paris is the <mask> of France." -m ./roberta -k 3
    """
    given = given_texts(texts, file)
    from minitrans.cli.loading import load_pipeline

    pipe = load_pipeline(runtime, "fill-mask")
    with progress("filling", len(given)) as advance:
        found = pipe(given, top_k=top_k, progress=advance)
    rows = []
    for number, (text, guesses) in enumerate(zip(given, found if len(given) > 1 else [found], strict=True), start=1):
        masks = guesses if isinstance(guesses[0], list) else [guesses]
        for mask, place in enumerate(re.finditer(re.escape(pipe.tokenizer.mask_token), text)):
            rows += [_guess(number, mask + 1, guess, text, *place.span()) for guess in masks[mask]]
    show(rows, as_json=as_json)


def _guess(number: int, mask: int, guess: dict[str, Any], text: str, start: int, end: int) -> dict[str, Any]:
    """A row, with the text filled; a WordPiece that continues a word is joined to what is before it."""
    word = guess["token_str"].strip()
    before, piece = (text[:start].rstrip(), word[2:]) if word.startswith("##") else (text[:start], word)
    return {
        "number": number,
        "mask": mask,
        "score": guess["score"],
        "token": word,
        "filled": f"{before}{piece}{text[end:]}",
    }
