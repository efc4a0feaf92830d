"""The fast lane: inference requests are answered on the connection itself, without ASGI."""
