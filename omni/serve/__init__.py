"""The assistant over HTTP and WebSockets, as clients of the OpenAI API speak it."""
