# docker build -t ktglite . && docker run --rm -it -p 127.0.0.1:8888:8888 ktglite
FROM python:3.13-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends make git \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home student \
    && mkdir /home/student/ktglite \
    && chown student /home/student/ktglite
WORKDIR /home/student/ktglite
COPY --chown=student . .
USER student

RUN make setup TORCH=cpu
ENV PATH=/home/student/ktglite/.venv/bin:$PATH
# The image's check: every notebook, on a handful of images.
RUN ktglite reproduce --profile smoke --out /tmp/smoke && rm -r /tmp/smoke

EXPOSE 8888
CMD ["jupyter", "lab", "notebooks", "--ip=0.0.0.0", "--no-browser"]
