def test_x(understanding, assistant, voice, clips):
    import time
    t=time.time(); turn = understanding.reply(voice); print(time.time()-t, turn.reply.text, turn.timings_ms, len(turn.reply.audio.samples))
    from omni.audio.vad import speech_likelihood
    print(speech_likelihood(voice.samples))
