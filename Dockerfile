# The example shop with the broker: web, workers and Flower are commands of this one image.
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1
RUN useradd --create-home --uid 10001 shop && install --directory --owner shop /media

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY broker_core broker_core
COPY broker_django broker_django
COPY workers workers
RUN pip install ".[asgi,flower,postgres]"

WORKDIR /shop
COPY example .
USER shop
EXPOSE 8000 5555
CMD ["uvicorn", "shop_site.asgi:application", "--host", "0.0.0.0", "--port", "8000"]
