VIDEO = []
