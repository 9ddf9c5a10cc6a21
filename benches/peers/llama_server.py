#!/usr/bin/env python3
"""llama.cpp's own server, from the package xllamacpp, until it is terminated.

    PYTHON benches/peers/llama_server.py MODEL.gguf --port 8080 --threads 2 --parallel 8 --context 2048
"""
import argparse, json, signal, sys


def main():
    import xllamacpp

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parallel", type=int, default=8, help="texts computed at once")
    parser.add_argument("--context", type=int, default=2048, help="tokens of each")
    parser.add_argument("--about", action="store_true", help="what it was built for, as JSON, and nothing else")
    args = parser.parse_args()
    if args.about:
        print(json.dumps({"system": str(xllamacpp.get_system_info()), "version": xllamacpp.__version__}))
        return
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.hostnames, params.port = ["127.0.0.1"], args.port
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    params.n_parallel, params.n_ctx = args.parallel, args.parallel * args.context
    params.n_gpu_layers, params.endpoint_metrics = 0, False
    server = xllamacpp.Server(params)  # serves on threads of its own
    print(server.listening_address, file=sys.stderr)
    signal.sigwait([signal.SIGTERM, signal.SIGINT])


if __name__ == "__main__":
    main()
