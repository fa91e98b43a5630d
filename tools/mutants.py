"""Deliberate mistakes for `tools/reliability.py`: each one changes a single place in `src/`, and a test must
notice."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A change in one place of the source.

    Args:
        name: short name.
        what: what is broken, for the table.
        file: below `src/bibier_hf/`.
        old: text that occurs exactly once in the file.
        new: text that replaces it.
        test: the test that must fail, as `FILE::FUNCTION` below `tests/`; all its parameters are run.
    """

    name: str
    what: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = (
    # The model
    Mutant(
        "mask-ignored",
        "Cross-modal layers attend to padding",
        "model/fusion_bibier.py",
        """KeptSteps(audio_mask), KeptSteps(text_mask)
        audio, text = self.audio_proj(""",
        """KeptSteps(torch.ones_like(audio_mask)), KeptSteps(torch.ones_like(text_mask))
        audio, text = self.audio_proj(""",
        "model/test_fusion.py::test_padding_never_changes_a_fusion",
    ),
    Mutant(
        "scan-chunk",
        "A chunk of the scan starts from the state one step too early",
        "model/mamba_bibier.py",
        "state = states[-1].clone()",
        "state = states[max(len(states) - 2, 0)].clone()",
        "model/test_mamba.py::test_scan_equals_the_loop",
    ),
    Mutant(
        "scan-gradient",
        "The gradient of the scan takes the decay of the wrong step",
        "model/mamba_bibier.py",
        "addcmul_(decay[step + 1], grad_h[step + 1])",
        "addcmul_(decay[step], grad_h[step + 1])",
        "model/test_mamba.py::test_scan_gradients",
    ),
    Mutant(
        "convolution-tap",
        "The causal convolution sees one step of the future",
        "model/mamba_bibier.py",
        "start = taps - 1 - tap if reverse else tap",
        "start = max(taps - 2 - tap, 0) if reverse else min(tap + 1, taps - 1)",
        "model/test_mamba.py::test_convolution_and_its_gradients",
    ),
    Mutant(
        "label-order",
        "Two labels are swapped",
        "model/labels_bibier.py",
        '("anger", "disgust", "fear",',
        '("disgust", "anger", "fear",',
        "model/test_configuration.py::test_label_order",
    ),
    Mutant(
        "zeros-for-missing",
        "A missing modality is replaced by zeros instead of its learned stand-in",
        "model/streams_bibier.py",
        "torch.where((absent & first).unsqueeze(-1), self.missing, frames)",
        "torch.where((absent & first).unsqueeze(-1), self.missing * 0, frames)",
        "model/test_modeling.py::test_every_parameter_gets_a_gradient",
    ),
    Mutant(
        "weight-of-missing",
        "The logits of a missing modality keep their weight",
        "model/fusion_bibier.py",
        "weights = self.weights.masked_fill(~keep, -torch.inf).softmax(1)",
        "weights = self.weights.expand(len(keep), -1, -1).softmax(1)",
        "model/test_fusion.py::test_mixture_by_hand_and_with_an_absent_modality",
    ),
    Mutant(
        "mean-over-padding",
        "The mean over time counts padding",
        "model/sequence_bibier.py",
        "return (x * keep).sum(1) / keep.sum(1).clamp(min=1)",
        "return (x * keep).mean(1)",
        "model/test_fusion.py::test_masked_mean_by_hand",
    ),
    Mutant(
        "batch-scaled",
        "Accumulated batches are divided by their own size, not by the size of the global batch",
        "model/modeling_bibier.py",
        "loss / (len(logits) if num_items_in_batch is None else num_items_in_batch)",
        "loss / len(logits)",
        "training/test_trainer.py::test_accumulated_steps_equal_one_large_batch",
    ),
    Mutant(
        "samples-miscounted",
        "The loss is divided by the numbers in soft labels",
        "training/trainer.py",
        'torch.ones(len(batch["labels"]))',
        'torch.ones(batch["labels"].numel())',
        "training/test_trainer.py::test_the_loss_is_divided_by_samples_not_by_numbers_in_soft_labels",
    ),
    Mutant(
        "temperature",
        "The pipeline does not apply the temperature",
        "model/answers_bibier.py",
        "logits.float() / self.config.temperature, ",
        "logits.float(), ",
        "model/test_pipeline.py::test_the_temperature_is_applied_to_the_scores_alone",
    ),
    Mutant(
        "answers-shuffled",
        "Answers of a batch come back in the order in which they were computed",
        "model/batching_bibier.py",
        "answers |= zip(batch, ",
        "answers |= zip(sorted(batch), ",
        "model/test_batching.py::test_answers_in_the_order_of_the_inputs",
    ),
    Mutant(
        "resampling",
        "Audio is not resampled",
        "model/audio_bibier.py",
        "samples = self._filter.resample_chunk(np.ascontiguousarray(samples))",
        "samples = np.ascontiguousarray(samples)",
        "model/test_audio.py::test_resampling_keeps_duration_and_pitch",
    ),
    Mutant(
        "hop",
        "Windows of a timeline are off by a hop",
        "model/segments_bibier.py",
        "return Segment(self._next, end, ",
        "return Segment(self._next + self._hop, end, ",
        "model/test_segments.py::test_windows_equal_a_slow_loop",
    ),
    Mutant(
        "last-window",
        "The end of a recording has no window",
        "model/segments_bibier.py",
        "if covered < self._buffer.end else []",
        "if covered < self._buffer.end - self._hop else []",
        "model/test_segments.py::test_windows_equal_a_slow_loop",
    ),
    Mutant(
        "speech-check",
        "The speech check counts padding",
        "model/unsure_bibier.py",
        "mean = masked_mean(features, mask)",
        "mean = features.mean(1)",
        "model/test_unsure.py::test_the_check_ignores_padding_and_absent_audio",
    ),
    # Data
    Mutant(
        "dev-is-test",
        "A protocol swaps dev and test",
        "data/protocols.py",
        'named = {fold: "test", (fold + 1) % NUM_FOLDS: "dev"}',
        'named = {fold: "dev", (fold + 1) % NUM_FOLDS: "test"}',
        "data/test_protocols.py::test_dialogue_grouped_uses_the_folds_of_the_corpus",
    ),
    Mutant(
        "dev-from-test",
        "Dev is drawn from train and test",
        "data/protocols.py",
        'for index, split in enumerate(splits) if split == "train"]',
        'for index, split in enumerate(splits) if split != "dev"]',
        "data/test_protocols.py::test_official_takes_dev_from_train_and_leaves_test_alone",
    ),
    Mutant(
        "speakers-shared",
        "The speaker-independent protocol groups by dialogue",
        "data/protocols.py",
        '"speaker_independent": "speaker"}',
        '"speaker_independent": "dialogue"}',
        "data/test_protocols.py::test_a_speaker_of_several_dialogues_is_kept_whole",
    ),
    Mutant(
        "stacked-apart",
        "A stacked row can end up in a different split from its clips",
        "data/protocols.py",
        "for name, found in home.items() if len(found) > 1",
        "for name, found in home.items() if len(found) > 2",
        "data/test_protocols.py::test_a_stacked_row_is_not_parted_from_its_clips",
    ),
    Mutant(
        "stacking-across-splits",
        "Clips of several splits are stacked together",
        "augmentation/sds.py",
        'if len(splits := set(columns["split"])) > 1:',
        'if len(splits := set(columns["split"])) > 3:',
        "augmentation/test_sds.py::test_splits_are_never_mixed",
    ),
    Mutant(
        "stacked-soft-label",
        "The soft label of a stacked clip ignores the lengths of its parts",
        "augmentation/sds.py",
        "mean = np.average(labels, axis=0, weights=weights)",
        "mean = np.average(labels, axis=0)",
        "augmentation/test_sds.py::test_soft_labels_are_averaged_by_duration",
    ),
    Mutant(
        "key-without-dtype",
        "The key of stored features does not contain their type",
        "data/features.py",
        """recipe["compute_dtype"] = str(self.compute_dtype).removeprefix("torch.")""",
        """recipe["compute_dtype"] = None""",
        "training/test_features.py::test_whatever_the_values_depend_on_is_a_miss",
    ),
    Mutant(
        "key-without-weights",
        "The key of stored features does not contain the weights of the backbone",
        "data/features.py",
        'recipe["backbone"] = self.model.backbone_key(modality)',
        'recipe["backbone"] = modality',
        "training/test_features.py::test_whatever_the_values_depend_on_is_a_miss",
    ),
    Mutant(
        "key-without-revision",
        "A stored answer of a language model is used for another revision",
        "augmentation/ls_llm.py",
        'asked = {**request, "settings": self.backend.settings}',
        'asked = {**request, "settings": {**self.backend.settings, "revision": None}}',
        "augmentation/test_ls_llm.py::test_an_answer_is_that_of_its_model_and_revision",
    ),
    Mutant(
        "checksum",
        "Stored features are not verified",
        "data/feature_store.py",
        'if _checksum(row) != tables["checksums"][place]:',
        "if _checksum(row) < 0:",
        "data/test_feature_store.py::test_a_damaged_shard_is_named",
    ),
    Mutant(
        "rows-of-stores",
        "Rows of a second store are read from the first",
        "data/feature_store.py",
        "part.places + np.array([len(shards), 0])",
        "part.places + np.array([0, 0])",
        "data/test_feature_store.py::test_rows_of_several_stores_are_put_together",
    ),
    Mutant(
        "context-of-itself",
        "An utterance is part of its own context",
        "data/context.py",
        "if (other.turn or 0) < (clip.turn or 0)]",
        "if (other.turn or 0) <= (clip.turn or 0)]",
        "data/test_context.py::test_utterances_of_the_same_turn_are_no_context",
    ),
    Mutant(
        "context-order",
        "Context starts with the farthest utterance",
        "model/context_bibier.py",
        "*list(before)[::-1][:utterances]]",
        "*list(before)[:utterances]]",
        "data/test_context.py::test_the_nearest_comes_first_and_only_so_many",
    ),
    Mutant(
        "noise-ratio",
        "Noise has half of the requested ratio in decibels",
        "data/disturbances.py",
        "10 ** (snr_db / 10))).astype",
        "10 ** (snr_db / 20))).astype",
        "data/test_disturbances.py::test_noise_has_the_ratio_that_was_asked_for",
    ),
    Mutant(
        "noise-by-worker",
        "Disturbances depend on the worker",
        "data/disturbances.py",
        'return f"{self.draw(clip, number)}@{self.seed}/{number}"',
        "return f\"{self.draw(clip, number)}@{__import__('os').getpid()}/{number}\"",
        "training/test_disturbed_training.py::test_raw_rows_do_not_depend_on_workers_or_order",
    ),
    Mutant(
        "archive-bomb",
        "Archives may hold any number of bytes",
        "data/archives.py",
        "MAX_RATIO = 100\n",
        "MAX_RATIO = 10**12\n",
        "data/test_archives.py::test_archives_that_hold_too_much_are_refused_before_they_are_read",
    ),
    # Training
    Mutant(
        "arg-max",
        "Soft labels are used as hard ones",
        "training/rows.py",
        'return one_hot[soft.argmax()] if self.mode == "argmax" else soft',
        "return one_hot[soft.argmax()]",
        "training/test_soft_labels.py::test_the_gold_label_is_mixed_in",
    ),
    Mutant(
        "soft-draw-by-process",
        "The draw between soft and hard labels depends on the worker",
        "training/rows.py",
        'f"{self.seed}/{epoch}/{row_id}"',
        "f\"{self.seed}/{epoch}/{row_id}/{__import__('os').getpid()}\"",
        "training/test_soft_labels.py::test_workers_that_live_on_see_the_next_epoch",
    ),
    Mutant(
        "class-weights",
        "Class weights are inverted",
        "training/samplers.py",
        "counts[counts > 0] ** -exponent",
        "counts[counts > 0] ** exponent",
        "training/test_samplers.py::test_balanced_class_weights_by_hand",
    ),
    Mutant(
        "epoch-order",
        "Every epoch has the same order",
        "training/samplers.py",
        "np.random.default_rng([self.seed, self.epoch])",
        "np.random.default_rng([self.seed, 0])",
        "training/test_samplers.py::test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone",
    ),
    Mutant(
        "optimizer-state",
        "A resumed training starts with a new optimizer and schedule",
        "training/trainer.py",
        "    def _get_output_dir(self, trial) -> str:",
        """    def _load_optimizer_and_scheduler(self, checkpoint):
        return None

    def _get_output_dir(self, trial) -> str:""",
        "training/test_trainer.py::test_a_resumed_run_ends_with_the_same_weights",
    ),
    Mutant(
        "fold-seen",
        "The models of out-of-fold logits are trained on their fold",
        "training/stages.py",
        "train.select(np.flatnonzero(own != fold))",
        "train.select(np.flatnonzero(own >= 0))",
        "training/test_stages.py::test_logits_come_from_models_that_did_not_see_the_fold",
    ),
    Mutant(
        "fitted-on-test",
        "The temperature is fitted on test",
        "training/run.py",
        "dev, logits = self.data.dev, self.trainer.predict_logits(self.data.dev)",
        "dev, logits = self.data.test, self.trainer.predict_logits(self.data.test)",
        "training/test_run.py::test_what_is_chosen_is_chosen_on_dev_and_not_on_test",
    ),
    Mutant(
        "join-weights",
        "The weights of a joined model go to the wrong modality",
        "training/join.py",
        "weights - weights.mean(0, keepdim=True))",
        "(weights - weights.mean(0, keepdim=True)).flip(0))",
        "training/test_join.py::test_the_better_modality_gets_the_weight",
    ),
    Mutant(
        "adapter-scale",
        "An adapter made of the change of a backbone has the wrong scale",
        "training/lora.py",
        "scale = strengths[:used].sqrt()",
        "scale = strengths[:used]",
        "training/test_lora.py::test_what_training_changed_becomes_an_adapter",
    ),
    # Labels of language models
    Mutant(
        "silent-one-hot",
        "A failed answer of a language model becomes the hard label",
        "augmentation/ls_llm.py",
        """        if values is None:
            return SoftLabel(None, raw, reason, attempts)
""",
        """        if values is None:
            return SoftLabel(np.eye(len(self.labels))[self.labels.index(gold or "neutral")], raw, None, attempts)
""",
        "augmentation/test_ls_llm.py::test_every_row_ends_as_ok_or_failed_once_and_never_as_a_silent_one_hot",
    ),
    # Evaluation
    Mutant(
        "macro-over-predicted",
        "Averages are over the predicted classes only",
        "evaluation/bibier_metrics/averages.py",
        'np.unique(references), "zero',
        'np.unique(predictions), "zero',
        "evaluation/test_metrics.py::test_a_class_that_is_never_predicted_counts_zero",
    ),
    Mutant(
        "corpora-by-size",
        "The selection metric counts large corpora more",
        "evaluation/metrics.py",
        "labels[groups == group], predictions[groups == group])",
        "labels, predictions)",
        "evaluation/test_metrics.py::test_groups_count_the_same_whatever_their_size",
    ),
    # Checkpoints and files
    Mutant(
        "converter-transposes",
        "The converter of published weights reverses the input projections of the scan",
        "hub/convert_original.py",
        'for key in ("s_D.0", "s_B", "s_C")]',
        'for key in ("s_D.0", "s_C", "s_B")]',
        "hub/test_convert_original.py::test_the_input_projections_of_the_scan_keep_their_order",
    ),
    Mutant(
        "converter-flips",
        "The converter of published weights transposes square matrices",
        "hub/convert_original.py",
        "(tensor if change is None else change(tensor)).float()",
        "(tensor.mT if tensor.dim() == 2 and len(set(tensor.shape)) == 1 else tensor).float()",
        "hub/test_convert_original.py::test_fusion_vectors",
    ),
    Mutant(
        "pickle",
        "Code in a pickle is run",
        "hub/convert_original.py",
        'map_location="cpu", weights_only=True',
        'map_location="cpu", weights_only=False',
        "hub/test_convert_original.py::test_code_in_a_pickle_is_never_run",
    ),
    Mutant(
        "half-a-file",
        "A file is written in place, so a failure leaves half of it",
        "files.py",
        """            write(scratch / path.name)
            os.replace(scratch / path.name, path)""",
        """            write(path)""",
        "test_files.py::test_a_failed_write_leaves_the_old_file_and_no_rubbish",
    ),
    # Conversations and the server
    Mutant(
        "turn-end",
        "The duration of a turn is read as its end",
        "timeline/turns.py",
        "end = round(start + _seconds(fields[4]",
        "end = round(_seconds(fields[4]",
        "timeline/test_turns.py::test_turns_of_each_format",
    ),
    Mutant(
        "subtitle-hours",
        "An hour of a subtitle has 60 seconds",
        "timeline/turns.py",
        "3600 * int(hours)",
        "60 * int(hours)",
        "timeline/test_turns.py::test_turns_of_each_format",
    ),
    Mutant(
        "request-size",
        "The size of a request is checked piece by piece, not in total",
        "serve/guard.py",
        'received += len(message.get("body", b""))',
        'received = len(message.get("body", b""))',
        "serve/test_app.py::test_the_pieces_of_a_request_are_added_up",
    ),
    Mutant(
        "request-number",
        "The server takes any number of requests at once",
        "serve/guard.py",
        "and self.active >= self._limits.concurrency:",
        "and self.active < 0:",
        "serve/test_app.py::test_limits_on_time_and_number",
    ),
    Mutant(
        "server-key",
        "The server takes any key",
        "serve/guard.py",
        "hmac.compare_digest(key.strip(), self._api_key.encode())",
        "bool(key.strip())",
        "serve/test_app.py::test_a_key",
    ),
    Mutant(
        "live-places",
        "A live connection that has ended keeps its place",
        "serve/live.py",
        "self.active -= counted",
        "self.active -= 0",
        "serve/test_app.py::test_live_connections_that_are_refused",
    ),
)
