"""`model.generate(...)`: from a call to a search, and back to token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from minitrans.generation.call import WORDS, Request, room
from minitrans.generation.config import FILE, GenerationConfig, read_generation_config
from minitrans.generation.decoding import Call, Guided, Output, Running
from minitrans.generation.dola import Contrasted
from minitrans.generation.drafting import DraftModel, PromptLookup
from minitrans.generation.job import Drafter, Job, Written
from minitrans.generation.noise import noise_of
from minitrans.generation.processing import in_turn
from minitrans.generation.search import search_of
from minitrans.generation.settings import NAMES, Settings, check_tokens
from minitrans.generation.text import Prompts, Text
from minitrans.layers.cache import Cache
from minitrans.models.arguments import refuse_unknown
from minitrans.models.inputs import check_ids, check_shape
from minitrans.models.outputs import ModelOutput
from minitrans.models.pretrained import PreTrainedModel
from weights_convert.journal import Folder, Save

Steps = tuple[tuple[Tensor, ...], ...]


@dataclass(repr=False)
class GenerateOutput(ModelOutput):
    """Of `generate(..., return_dict_in_generate=True)`; N texts are those of the first prompt, then those of the next.

    Attributes:
        sequences: (N, T) prompts and new tokens, with padding before and after.
        sequences_scores: (N) of beams: log-probability by length, see `length_penalty`.
        scores: of each step the processed scores, (rows, V); of a text that has ended 0 for padding and -inf for all else.
        logits: the same, as they came from the model.
        beam_indices: (N, steps) the row of `scores` that each token comes from; -1 after the end.
        past_key_values: what the model remembers, unless texts ended at different steps or beams were searched.
        attentions, decoder_attentions, cross_attentions: of each step, of each layer (rows, H, t, S), where t tokens were read:
            the prompt at first, then one; 0 for a text that has ended.
        hidden_states, decoder_hidden_states: the same, (rows, t, D).
        encoder_attentions, encoder_hidden_states: of each layer, of the sources.
    """

    sequences: Tensor
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    past_key_values: Cache | None = None
    attentions: Steps | None = field(default=None, kw_only=True)
    hidden_states: Steps | None = field(default=None, kw_only=True)
    encoder_attentions: tuple[Tensor, ...] | None = field(default=None, kw_only=True)
    encoder_hidden_states: tuple[Tensor, ...] | None = field(default=None, kw_only=True)
    decoder_attentions: Steps | None = field(default=None, kw_only=True)
    cross_attentions: Steps | None = field(default=None, kw_only=True)
    decoder_hidden_states: Steps | None = field(default=None, kw_only=True)


class Start(NamedTuple):
    """What a search begins with.

    Attributes:
        prompts: to go on with.
        source: what was given, which an encoder may have read: for penalties and bans.
        beside: (B, ...) what goes with each prompt into every call.
        cache: of tokens that the model has read already.
        seen: what the output says of the encoder, by name.
    """

    prompts: Prompts
    source: Prompts
    beside: dict[str, Tensor]
    cache: Cache | None = None
    seen: Mapping[str, Any] = MappingProxyType({})


class Generative(PreTrainedModel):
    """What a model that predicts the next token can do: write."""

    memory_names: ClassVar[tuple[str, ...]] = ("encoder_hidden_states", "encoder_attention_mask")
    # what the output calls what was seen at each step
    seen_names: ClassVar[Mapping[str, str]] = {"hidden_states": "hidden_states", "attentions": "attentions"}
    _generation_config: GenerationConfig | None = None

    @classmethod
    def can_generate(cls) -> bool:
        """It has a `generate` of its own."""
        return True

    @property
    def generation_config(self) -> GenerationConfig:
        """The settings that hold unless a call says otherwise: the checkpoint's, or what the configuration says."""
        if self._generation_config is None:
            names = [
                name for name in NAMES if name not in ("output_attentions", "output_hidden_states")
            ]  # of its forward
            said = {name: value for name in names if (value := self.config.get(name)) is not None}
            if said.get("pad_token_id", 0) < 0:
                del said["pad_token_id"]
            self._generation_config = GenerationConfig(**said)
        return self._generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        self._generation_config = config

    def read_beside(self, folder: Folder) -> None:
        """generation_config.json, where there is one."""
        if folder.has(FILE):
            self._generation_config = read_generation_config(folder.path(FILE))

    def write_beside(self, save: Save) -> bool:
        """generation_config.json."""
        text = self.generation_config.to_json_string()
        if save.holds(FILE, text.encode()):
            return False
        save.stage(FILE).write_text(text, encoding="utf-8")
        return True

    @torch.no_grad()
    def generate(
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, **given: Any
    ) -> Tensor | GenerateOutput:
        """Writes on from each prompt.

        The arguments are the reference's. A text is what it would be alone: padding, on either side, and the other prompts of the
        batch change nothing, and lengths count its own tokens.

        Args:
            inputs: (B, T) prompts, also called input_ids; None = the token that begins a text. With `inputs_embeds` (B, T, D)
                beside or instead of them the model reads these; without ids only new tokens are returned.
            generation_config: settings for this call, over the model's own.
            given: settings (`minitrans.generation.settings.Settings`); attention_mask (B, T), None = padding ids are
                padding, unless they end texts; what else goes into the model's forward; and

                - logits_processor: functions (ids (N, T), scores (N, V)) -> scores;
                - stopping_criteria: functions (ids, None) -> (N) bool;
                - prefix_allowed_tokens_fn: (number of the prompt, ids) -> the tokens that may come next;
                - streamer: gets the tokens as they come, see `minitrans.generation.streaming`;
                - assistant_model: a smaller model that drafts;
                - negative_prompt_ids, negative_prompt_attention_mask: what guidance moves away from; None = the last token;
                - tokenizer: for `stop_strings`;
                - generator: of the random numbers, for the whole batch; see also `seed`.

        Returns:
            (N, T) prompts and new tokens, N = B · num_return_sequences; a `GenerateOutput` with return_dict_in_generate.

        Raises:
            ValueError, TypeError: for settings that cannot be, or not together, and prompts that do not fit: what to do.
        """
        request = self._request(inputs, generation_config, given)
        search = search_of(request.asked, request.given)
        check_tokens(request.settings, self.writer.config.vocab_size)
        start = self.start(request)
        text = start.prompts.text(room(request.settings, start.prompts.lengths, self.longest_text))
        job = Job(
            request.settings,
            in_turn(each for _, each in request.processors(start.source)),
            request.ended(),
            noise_of(request.settings.seed, request.helpers.generator, len(text.ids), text.ids.device),
            request.helpers.streamer,
            self._drafter(request, start, text),
        )
        run = self._guided(request, Running(
            self.reader(), text, start.beside, self._cache(request.settings, start, int((text.begin + text.most).max())),
            use_cache=request.settings.use_cache, states=request.settings.looks["hidden_states"],
            attentions=request.settings.looks["attentions"],
        ))  # fmt: skip
        if job.streamer is not None:
            job.streamer.put(start.prompts.shown.cpu())
        written = search(run, job)
        if job.streamer is not None:
            job.streamer.end()
        return _returned(request.settings, start, written, self.seen_names)

    def explain_generation(self, inputs: Tensor | None = None, **given: Any) -> list[str]:
        """What scores go through in such a call to `generate`, in order, and the search, which comes last."""
        request = self._request(inputs, None, given)
        search = search_of(request.asked, request.given)
        return [*(name for name, _ in request.processors(self.start(request).source)), search.__name__]

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: Sequence[Tensor],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """The score of each new token.

        Args:
            sequences: (N, T).
            scores: of each step, (rows, V).
            beam_indices: (N, steps), of beams.
            normalize_logits: log-probabilities instead of the scores as they are.

        Returns:
            (N, steps), 0 after the end of a text.
        """
        steps = torch.stack(tuple(scores), dim=1)  # (rows, steps, V)
        steps = steps.log_softmax(dim=-1) if normalize_logits else steps
        if beam_indices is None:
            beam_indices = torch.arange(len(sequences), device=sequences.device)[:, None].expand(-1, len(scores))
        count = beam_indices.shape[1]
        paths = steps[beam_indices.clamp(min=0), torch.arange(count, device=steps.device)]  # (N, count, V)
        found = paths.gather(2, sequences[:, sequences.shape[1] - count :, None]).squeeze(2)
        return found.masked_fill(beam_indices < 0, 0.0)

    def _request(self, inputs: Tensor | None, config: GenerationConfig | None, given: Mapping[str, Any]) -> Request:
        if inputs is not None:
            if given.get("input_ids") is not None:
                raise ValueError("give inputs or input_ids, which are the same, got both")
            given = {**given, "input_ids": inputs}
        return Request.of(given, self.generation_config, config)

    # -- what differs between decoders and pairs -----------------------------------------------------------------------

    @property
    def writer(self) -> Any:
        """The body that reads what is written."""
        return self.base_model

    def score_states(self, hidden: Tensor) -> Tensor:
        """(..., V) scores of the next tokens from hidden states (..., D) of any layer."""
        scores: Tensor = self.get_submodule("lm_head")(hidden)
        return scores

    @property
    def longest_text(self) -> int | None:
        """The longest text that there are positions for; None = there is no end."""
        longest: int | None = self.writer.longest
        return longest

    def start(self, request: Request) -> Start:
        """What to begin with, from all the inputs of a call."""
        inputs = dict(request.inputs)
        vectors = inputs.pop("inputs_embeds", None)
        prompts, order = self.prompts_of(
            inputs.pop("input_ids", None), inputs.pop("attention_mask", None), request, vectors=vectors
        )
        cache, types = inputs.pop("past_key_values", None), inputs.pop("token_type_ids", None)
        held, most = 0 if cache is None else cache.get_seq_length(), int(prompts.lengths.max())
        if held >= most:
            raise ValueError(
                f"past_key_values holds {held} tokens, of prompts of {most}: give the whole text, and attention_mask if it "
                "holds padding ids"
            )
        beside = {name: inputs.pop(name) for name in self.memory_names if name in inputs}
        refuse_unknown(inputs, self.base_model, WORDS)
        if types is not None:
            beside["token_type_ids"] = types.expand(prompts.ids.shape).gather(1, order)[:, -most:]
        if vectors is not None:
            beside["inputs_embeds"] = moved(vectors, order)[:, -most:]
        return Start(prompts, prompts, beside, cache)

    def prompts_of(
        self, ids: Any, mask: Tensor | None, request: Request, reader: Any = None, vectors: Tensor | None = None
    ) -> tuple[Prompts, Tensor]:
        """Prompts with their padding on the left, and (B, T) which column came to which.

        `reader` reads them, None = who reads what is written; `vectors` (B, T, D) may stand for them.
        """
        settings, is_known = request.settings, True
        if vectors is not None:
            shape = "?" if ids is None else ", ".join(map(str, ids.shape))
            if vectors.dim() != 3 or (ids is not None and ids.shape != vectors.shape[:2]):
                raise ValueError(f"inputs_embeds must be (B, T, D) = ({shape}, D), got {tuple(vectors.shape)}")
            if request.asked.has_draft:
                raise ValueError("a draft reads token ids: leave inputs_embeds out, or the draft")
            if ids is None:
                ids, is_known = vectors.new_zeros(vectors.shape[:2], dtype=torch.long), False
        if ids is None:
            if settings.bos_token_id is None:
                raise ValueError("there is no prompt, and no bos_token_id to begin with: give input_ids")
            ids = torch.full((1, 1), settings.bos_token_id, device=self.device)
        vocab_size = (reader or self.writer).config.vocab_size
        ids = check_ids("input_ids", ids, vocab_size, "vocab_size").to(self.device)
        if ids.dim() != 2 or ids.numel() == 0:
            raise ValueError(f"input_ids must be (B, T), with one token at least, got {tuple(ids.shape)}")
        if not is_known:
            ids = torch.full_like(ids, vocab_size)  # no token, for penalties and bans
        if mask is not None:
            check_shape("attention_mask", mask, "(B, T)", tuple(ids.shape))
            real = mask.to(self.device) != 0
        else:
            pad = settings.pad_token_id
            real = torch.ones_like(ids, dtype=torch.bool) if pad is None or pad in settings.eos else ids != pad
        if not bool(real.any(dim=1).all()):
            raise ValueError("a prompt is padding only: leave it out of the batch")
        order = real.long().argsort(dim=1, stable=True)
        return Prompts(ids.gather(1, order), real.gather(1, order), is_known), order

    def step(
        self, tokens: Tensor, *, mask: Tensor | None, places: Tensor, cache: Cache | None, use_cache: bool,
        beside: Mapping[str, Tensor], keep: int, states: bool, attentions: bool, first: int,
    ) -> Output:  # fmt: skip
        """See `minitrans.generation.decoding.Call`; `first` is the position id of the first token of a text (R1)."""
        given, held = dict(beside), 0 if cache is None else cache.get_seq_length()
        types, vectors = given.pop("token_type_ids", None), given.pop("inputs_embeds", None)
        if types is not None:  # new tokens are of the last type
            columns = torch.arange(held, held + tokens.shape[1], device=tokens.device)
            given["token_type_ids"] = types[:, columns.clamp(max=types.shape[1] - 1)]
        ids: Tensor | None = tokens
        if vectors is not None and held < vectors.shape[1]:
            read = vectors[:, held:]
            if tokens.shape[1] > read.shape[1]:  # without a cache
                rows = getattr(self.base_model.embeddings, "rows", self.get_input_embeddings())
                read = torch.cat([read, rows(tokens[:, read.shape[1] :])], dim=1)
            given["inputs_embeds"], ids = read, None
        output: Output = self(
            input_ids=ids, attention_mask=mask, position_ids=places + first, past_key_values=cache,
            use_cache=use_cache, logits_to_keep=keep, output_hidden_states=states, output_attentions=attentions,
            return_dict=True, **given,
        )  # fmt: skip
        return output

    def reader(self) -> Call:
        """`step`, for as long as the model stays as it is."""
        return partial(self.step, first=int(self.writer.positions(torch.zeros(1, 1, 1, device=self.device), 0)))

    def _cache(self, settings: Settings, start: Start, end: int) -> Cache | None:
        if settings.cache_implementation == "static":
            if start.cache is not None:
                raise ValueError("give past_key_values or cache_implementation='static', got both")
            return Cache.static(self.writer.num_layers, end)
        return start.cache

    def _drafter(self, request: Request, start: Start, text: Text) -> Drafter | None:
        """What guesses, if anything is to."""
        assistant, settings = request.helpers.assistant_model, request.settings
        if assistant is None:
            sources = None if start.source is start.prompts else start.source.rows()
            return None if settings.prompt_lookup_num_tokens is None else PromptLookup(settings, sources)
        if settings.prompt_lookup_num_tokens is not None:
            raise ValueError("give assistant_model or prompt_lookup_num_tokens, got both")
        own = self.writer.config.vocab_size
        kin = isinstance(assistant, Generative) and (assistant.writer is assistant.base_model) == (
            self.writer is self.base_model
        )
        told = assistant.writer.config.vocab_size if kin else type(assistant).__name__
        if told != own:
            kind = "decoder" if self.writer is self.base_model else "pair"
            raise ValueError(
                f"assistant_model must be a {kind} that writes, with the same vocabulary of {own}, got {told}"
            )
        process = in_turn(each for _, each in request.processors(start.source))
        return DraftModel(Running(assistant.reader(), text, assistant.start(request).beside), process, settings)

    def _guided(self, request: Request, run: Running) -> Running:
        """With a second reading where there is guidance, or one of earlier layers."""
        helpers, text = request.helpers, run.text
        if (layers := request.settings.dola_layers) is not None:
            return Contrasted(run, layers, self.score_states, is_tied=self.config.tie_word_embeddings)
        if request.settings.guidance_scale == 1.0:
            return run
        if helpers.negative_prompt_ids is None:
            if text.hidden:
                raise ValueError("guidance_scale needs negative_prompt_ids beside inputs_embeds: give them")
            ids, mask = text.ids[:, -1:], None
        else:
            ids, mask = helpers.negative_prompt_ids, helpers.negative_prompt_attention_mask
        if len(ids) != len(text.ids):
            raise ValueError(
                f"negative_prompt_ids must be (B, T) of as many prompts, {len(text.ids)}, got {tuple(ids.shape)}"
            )
        prompts, _ = self.prompts_of(ids, torch.ones_like(ids) if mask is None else mask, request)
        other = Running(self.reader(), prompts.text(text.most), run.beside, use_cache=run.use_cache)
        return Guided(run, other)


def moved(vectors: Tensor, order: Tensor) -> Tensor:
    """(B, T, D) vectors in another order of columns, (B, T')."""
    return vectors.gather(1, order[..., None].expand(-1, -1, vectors.shape[2]))


def _returned(settings: Settings, start: Start, written: Written, names: Mapping[str, str]) -> Tensor | GenerateOutput:
    """(N, T) prompts, then new tokens, with padding behind those that ended early."""
    lengths = {len(tokens) for tokens in written.tokens}
    if len(lengths) > 1 and settings.pad is None:
        raise ValueError(
            "texts ended at different lengths, and there is no pad_token_id to fill them up with: give one"
        )
    most = max(lengths)
    filled = [tokens + [settings.pad or 0] * (most - len(tokens)) for tokens in written.tokens]
    ids = start.prompts.shown.repeat_interleave(settings.num_return_sequences, dim=0)
    sequences = torch.cat([ids, torch.tensor(filled, dtype=ids.dtype, device=ids.device)], dim=1)
    if not settings.return_dict_in_generate:
        return sequences
    indices = written.beam_indices
    seen: dict[str, Any] = {name: of for key, name in names.items() if any(of := written.seen.get(key, ()))}
    seen |= {name: made for name, made in start.seen.items() if made is not None}
    return GenerateOutput(
        sequences,
        written.sequences_scores,
        None if written.scores is None else tuple(written.scores),
        None if written.logits is None else tuple(written.logits),
        None
        if indices is None
        else torch.tensor([each + [-1] * (most - len(each)) for each in indices], device=ids.device),
        written.cache,
        **seen,
    )
