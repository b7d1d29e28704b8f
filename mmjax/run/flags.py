"""The command lines of train.py and eval.py."""

import argparse
import contextlib
import difflib
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from mmjax.config import ConfigError, nearest, override, trust
from mmjax.run.config_file import allowed, load
from mmjax.run.options import COMPILES, Options, Stopped
from mmjax.training.failing import Failed

_OVERRIDE = "--config."
# Of a config, as data.path does by itself; a shell sees no '~' behind an equals sign.
_HOME = ("init_from", "tokenizer.path", "answers.path")
_AGAIN = "The same command, started on all, goes on from the last checkpoint, "
_AGAIN += "or begins anew where there is none."
_MISSPELT = 0.75  # likeness of two words, 0 to 1, from which one is taken for the other
EXIT_WRONG = 2  # something the person typed


def parse_train(arguments: Sequence[str]) -> tuple[ConfigDict, str, Options]:
    """(config, workdir, options) of train.py.

    Raises:
      ConfigError: an unknown flag or key (names the nearest), a value of a wrong type, no file.
    """
    parser = _parser("python train.py", "Trains a config in a workdir, from where it stands.")
    listing = "--plan=list" in arguments  # of no config
    parser.add_argument("--config", required=not listing, help="configs/x.py or configs/x.py:smoke")
    parser.add_argument(
        "--workdir",
        default="",
        help="folder or address (gs://bucket/run), made if missing; holds all of the run",
    )
    parser.add_argument(
        "--plan",
        default="",
        metavar="TOPOLOGY",
        help="compile the step for devices such as v5e:16x16, say what it needs and takes, and "
        "train nothing; 'list' names them",
    )
    parser.add_argument("--plan-json", default="", metavar="FILE", help="the plan's numbers")
    parser.add_argument(
        "--search",
        type=int,
        nargs="?",
        const=COMPILES,
        default=0,
        metavar="N",
        help="with --plan: rank micro-batches, recomputation and meshes, of which the N likeliest "
        f"are compiled ({COMPILES} where no number is given)",
    )
    parser.add_argument(
        "--price-per-device-hour", type=float, default=0.0, help="for the plan's cost"
    )
    parser.add_argument("--resume", action="store_true", help="go on although the config differs")
    parser.add_argument("--overwrite", action="store_true", help="start anew in a used workdir")
    parser.add_argument(
        "--restart-data", action="store_true", help="go on although the data differs"
    )
    parser.add_argument("--profile", default="", help="start:stop, the steps to trace")
    parser.add_argument(
        "--replay-check",
        type=int,
        default=0,
        metavar="N",
        help="compute every N-th step twice and compare bit for bit; it needs the memory of a "
        "second state on each device and 1/N more time",
    )
    _add_allow(parser)
    _add_require(parser)
    parser.add_argument(
        "--show-sharding",
        action="store_true",
        help="print each array of the state with its shape, the mesh axes that cut it and its "
        "bytes a device, and end; needs neither --workdir nor data",
    )
    known, overrides = _parse(parser, arguments)
    trust(allowed(known.allow))
    config = ConfigDict() if known.config is None else _at_home(load(known.config))
    if "adopt" in config:
        # Reading others' weights takes a second to load, which no other config needs.
        from mmjax.run.adopting import adopt

        overrides = adopt(config, overrides)
    for path, text in overrides:
        override(config, path, text)
    if (known.search or known.plan_json) and not known.plan:
        raise ConfigError("--search and --plan-json say more of a plan; give --plan=TOPOLOGY too.")
    if known.search < 0:
        raise ConfigError(f"--search={known.search}: give how many candidates may be compiled.")
    if not 0 <= known.price_per_device_hour < math.inf:
        raise ConfigError(
            f"--price-per-device-hour={known.price_per_device_hour:g}: give a price of 0 or more."
        )
    if not (known.workdir or known.plan or known.show_sharding):
        raise ConfigError("the following arguments are required: --workdir. See train.py --help.")
    options = Options(
        known.resume,
        known.overwrite,
        known.restart_data,
        known.profile,
        known.require,
        known.replay_check,
        known.plan,
        known.plan_json,
        known.price_per_device_hour,
        known.show_sharding,
        known.search,
    )
    return config, known.workdir, options


def parse_eval(
    arguments: Sequence[str],
) -> tuple[str, int | None, list[tuple[str, str]], tuple[str, ...], str]:
    """(workdir, step or None for the newest, overrides, packages, platform) of eval.py."""
    parser = _parser("python eval.py", "Evaluates a checkpoint of a workdir.")
    parser.add_argument("--workdir", required=True, help="a workdir that train.py made")
    parser.add_argument("--step", type=int, default=None, help="by default the newest")
    _add_allow(parser)
    _add_require(parser)
    known, overrides = _parse(parser, arguments)
    return known.workdir, known.step, overrides, allowed(known.allow), known.require


def _add_allow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow",
        default="",
        metavar="NAMES",
        help="packages beside mmjax, optax and flax whose classes a saved config may name, and "
        "config files that define some: mine,configs/x.py",
    )


def _add_require(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--require", default="", choices=("tpu", "gpu"), help="refuse to run on anything else"
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise ConfigError(f"{message}. See {self.prog} --help.")


def _parser(program: str, description: str) -> argparse.ArgumentParser:
    return _Parser(
        prog=program,
        description=description,
        epilog="--config.a.b=value changes a value of the config; --config.a[0].b=value reaches "
        "into a tuple.",
        allow_abbrev=False,
    )


def _parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    overrides, rest, waiting = [], [], ""
    for argument in arguments:
        if waiting:
            overrides.append((waiting, argument))
            waiting = ""
        elif argument.startswith(_OVERRIDE):
            path, given, text = argument[len(_OVERRIDE) :].partition("=")
            if given:
                overrides.append((path, text))
            else:
                waiting = path
        else:
            rest.append(argument)
    if waiting:
        raise ConfigError(f"{_OVERRIDE}{waiting} has no value; write {_OVERRIDE}{waiting}=value.")
    flags = [option for action in parser._actions for option in action.option_strings]
    for argument in rest:  # before a required one is missed: it may be there, misspelt
        name = argument.partition("=")[0]
        if name.startswith("--") and name not in flags:
            raise ConfigError(f"unknown {argument!r}.{_meant(argument, name, flags)}")
    known, unknown = parser.parse_known_args(rest)
    if unknown:
        raise ConfigError(f"unknown {unknown[0]!r}.{nearest(unknown[0], flags)}")
    overrides = [
        (path, os.path.expanduser(text) if path in _HOME else text) for path, text in overrides
    ]
    return known, overrides


def _meant(argument: str, name: str, flags: Sequence[str]) -> str:
    """What somebody may have meant by an unknown flag: one of ours, or a key of the config."""
    if "=" not in argument or difflib.get_close_matches(name, flags, 1, _MISSPELT):
        return nearest(name, flags)
    return (
        f" There are: {', '.join(flags)}; a key of the config is set by {_OVERRIDE}{argument[2:]}."
    )


def _at_home(config: ConfigDict) -> ConfigDict:
    """The config, in whose own paths '~' is the home folder as in typed ones; changed in place."""
    for path in _HOME:
        *above, name = path.split(".")
        node = config.get(above[0]) if above else config
        if node is not None and str(node.get(name) or "").startswith("~"):
            override(config, path, os.path.expanduser(node[name]))
    if config.get("first"):  # a recipe in two stages
        _at_home(config.first)
    return config


def main(run: Callable[[Sequence[str]], None]) -> None:
    """Runs a command and turns what is wrong into one line and an exit status.

    2: something typed (config, flag, missing file); 1: the run failed; 128 + n: signal n.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a locale that cannot write a letter ends no run
            stream.reconfigure(errors="backslashreplace")
    failure: Exception | None = None
    try:
        run(sys.argv[1:])
        return
    except ConfigError as error:
        status, text = EXIT_WRONG, f"error: {error}"
    except Failed as error:
        # Kept, with its frames: to free their arrays waits for a step that others may have left.
        failure, status, text = error, 1, f"error: {error}"
    except Stopped as error:
        for number in (signal.SIGTERM, signal.SIGINT):  # all is saved: no further one is heard
            signal.signal(number, signal.SIG_IGN)
        status, text = 128 + error.number, str(error)
    except KeyboardInterrupt:
        status, text = 128 + signal.SIGINT, "stopped before the training began."
    except Exception as error:
        failure, status, text = error, 1, traceback.format_exc().rstrip()
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)
    if failure is not None or (status == EXIT_WRONG and _among_others()):
        from mmjax.data import workers
        from mmjax.parallel import hosts

        workers.release()
        culprit = hosts.blame(failure) if failure is not None else ""
        if culprit:
            text = f"this process cannot go on, since {culprit}"
            with contextlib.suppress(OSError, ValueError):
                print(f"error: {text}. {_AGAIN}", file=sys.stderr, flush=True)
        workers.release(locks=True)
        hosts.leave(status, text.splitlines()[-1])
    sys.exit(status)


def _among_others() -> bool:
    """Whether this process has joined a job of several; JAX is not loaded to find out."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()
