"""A model and a batch become values ``v(S)``: players, baseline values, scores and masked evaluation."""
