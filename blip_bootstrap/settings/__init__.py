"""What a setting is, in the configuration and in options of plugged-in models: types, marks, mistakes in words."""
