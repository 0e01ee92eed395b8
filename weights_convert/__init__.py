"""A translator between a Hugging Face checkpoint and named tensors: read, check, account for, write.

    family = weights_convert.families.bert.FAMILY                  # names there -> names here, one table for each family
    with open_checkpoint(find_folder("bert-base-uncased")) as checkpoint:
        job = translate(checkpoint, family, config, shapes)        # every tensor accounted for, nothing read yet
        job.require_sound("BertModel")
        fill_parameters(job, parameters)                           # {name: tensor}; job.report has a row for each
    report = ConversionReport()
    write_files("folder", file_tensors(parameters, family, config, report), {"model_type": "bert"}, report)

It knows no model class and no configuration class: `shapes` and `parameters` are by name, and `config` is whatever has the
few fields that a table reads. Models are loaded and saved by `minitrans.models.loading` and `minitrans.models.saving`.
"""

from weights_convert.checkpoint import find_folder, open_checkpoint
from weights_convert.filling import fill_parameters
from weights_convert.plan import make_plan
from weights_convert.report import ConversionReport
from weights_convert.translate import file_tensors, translate
from weights_convert.writing import write_files

__all__ = [
    "ConversionReport",
    "file_tensors",
    "fill_parameters",
    "find_folder",
    "make_plan",
    "open_checkpoint",
    "translate",
    "write_files",
]
