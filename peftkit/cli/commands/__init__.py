"""The commands, one module and one class each, in the order in which the help lists them."""

from peftkit.cli.commands.completion import CompletionCommand
from peftkit.cli.commands.doctor import DoctorCommand
from peftkit.cli.commands.init import InitCommand
from peftkit.cli.commands.list import ListCommand
from peftkit.cli.commands.new import NewCommand
from peftkit.cli.commands.recipe_commands.check import CheckCommand
from peftkit.cli.commands.recipe_commands.cost import CostCommand
from peftkit.cli.commands.recipe_commands.explain import ExplainCommand
from peftkit.cli.commands.recipe_commands.profile import ProfileCommand
from peftkit.cli.commands.recipe_commands.run import RunCommand
from peftkit.cli.commands.recipe_commands.schema import SchemaCommand
from peftkit.cli.commands.recipe_commands.sweep import SweepCommand
from peftkit.cli.commands.recipe_commands.task_preview import TaskPreviewCommand
from peftkit.cli.commands.run_commands.advise import AdviseCommand
from peftkit.cli.commands.run_commands.bench import BenchCommand
from peftkit.cli.commands.run_commands.compare import CompareCommand
from peftkit.cli.commands.run_commands.eval import EvalCommand
from peftkit.cli.commands.run_commands.export import ExportCommand
from peftkit.cli.commands.run_commands.import_ import ImportCommand
from peftkit.cli.commands.run_commands.merge import MergeCommand
from peftkit.cli.commands.run_commands.predict import PredictCommand
from peftkit.cli.commands.run_commands.push import PushCommand
from peftkit.cli.commands.run_commands.report import ReportCommand
from peftkit.cli.commands.run_commands.serve import ServeCommand
from peftkit.cli.commands.run_commands.verify import VerifyCommand
from peftkit.cli.commands.run_commands.watch import WatchCommand
from peftkit.cli.commands.show import ShowCommand
from peftkit.cli.subcommand import SubCommand

COMMANDS: tuple[type[SubCommand], ...] = (
    InitCommand,
    RunCommand,
    CheckCommand,
    ExplainCommand,
    CostCommand,
    ProfileCommand,
    CompareCommand,
    AdviseCommand,
    ReportCommand,
    VerifyCommand,
    WatchCommand,
    ServeCommand,
    ImportCommand,
    SweepCommand,
    ListCommand,
    ShowCommand,
    PredictCommand,
    EvalCommand,
    BenchCommand,
    MergeCommand,
    ExportCommand,
    PushCommand,
    NewCommand,
    SchemaCommand,
    DoctorCommand,
    TaskPreviewCommand,
    CompletionCommand,
)
