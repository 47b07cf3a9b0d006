# cbir on a processor; docs/install.md has the commands. The argument may give pip the address of
# PyTorch's builds for processors: without it the image has the GPU's libraries too, 5 GB more.
FROM python:3.13-slim
ARG PIP_EXTRA_INDEX_URL
WORKDIR /cbir
COPY . .
RUN pip install --no-cache-dir -c constraints.txt -e ".[vgg16,offline,explore,heic]"
ENV HOME=/tmp
EXPOSE 8866
ENTRYPOINT ["cbir"]
CMD ["reproduce"]
