"""What a student in four bits needs, and what cannot be had with it."""

from agentopd.adapters import is_adapter
from agentopd.config import Config
from agentopd.errors import ConfigError, under
from agentopd.quantization import apart, require_installed
from agentopd.rollout.engines import Vllm
from agentopd.teachers import traits_of
from agentopd.training.checks.roles import model_of, used_teachers
from agentopd.types import STUDENT


def check_packed(config: Config) -> None:
    """Looks at all models of a run that are to be in four bits, by the configuration alone.

    Raises:
        ConfigError: bitsandbytes is not installed, or one of them cannot be trained, or be where it is to be.
    """
    student = config.student
    if student.quantization is not None:
        with under(STUDENT):
            require_installed(student.quantization)
        if is_adapter(str(student.model)):
            raise ConfigError(
                f"student.quantization={student.quantization}: student.model={student.model!r} is an adapter, which stays beside weights in four "
                "bits; give a model into which it has been merged"
            )
        require_trainable(config, adapted=config.train.lora is not None)
    packed = [name for name, choice in config.teachers.items() if choice.settings.get("quantization")]
    for name, choice in used_teachers(config).items() if packed else ():
        model = model_of(name, choice) if traits_of(choice).model else None
        if model is None or model.quantization is None:
            continue
        with under(f"teachers.{name}"):
            require_installed(model.quantization)
        if name in config.cluster.teachers:
            raise ConfigError(
                f"cluster.teachers.{name}: weights in four bits are not sent to actors; leave it out, or teachers.{name}.quantization"
            )


def require_trainable(config: Config, adapted: bool) -> None:
    """Looks at whether a student in four bits can be trained; ``adapted`` says whether it is inside an adapter.

    Raises:
        ConfigError: It cannot.
    """
    key, engine = "the student is in four bits (student.quantization)", config.rollout.engine
    if not adapted:
        raise ConfigError(
            f"train.lora=null: {key}, and such weights are not trained; set train.lora, or leave quantization out"
        )
    if config.train.sharded:
        raise ConfigError(
            f"train.sharded=true: {key}, and such weights are not sharded; set train.sharded: false, which gives each process a copy"
        )
    if isinstance(config.rollout.made_engine, Vllm):
        raise ConfigError(apart(engine.kind))
    if config.cluster.rollout is not None:
        raise ConfigError(f"cluster.rollout: {key}, and such weights are not sent to actors; leave cluster.rollout out")
