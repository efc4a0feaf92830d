"""HTTP: bytes in, bytes out. Everything about models is in `app.engine`."""
