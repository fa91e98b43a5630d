"""The demo: a web page that hears a clip, reads a text, and shows the probabilities of the emotions.

`app`, `analysis`, `texts` and `timeline_view` import only each other, `palette`, `timeline.formats`, gradio, NumPy and
transformers, and reach the model through its remote code. So they also run in a Space without this package: `space`
writes its folder, with examples spoken by `examples`.
"""
