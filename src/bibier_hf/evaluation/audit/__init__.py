"""The leakage audit: can a model score on a split of a corpus without hearing the emotion?"""
