"""Sound in and out: files, features, prosody, voice activity, augmentation."""
