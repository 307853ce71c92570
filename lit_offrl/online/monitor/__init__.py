"""The deployment monitor: does the world that a policy acts in still match its log?"""
