/**
 * The renderer of a fan-out's picture among JupyterLab's renderers: it shows data, never what it could act.
 */

import type { IRenderMime } from '@jupyterlab/rendermime';
import { ReactWidget } from '@jupyterlab/ui-components';
import * as React from 'react';

import { FanOutView } from '../components/fanout';
import { FANOUT_MIME, IPicture, readPicture } from '../model/fanout';

/** Opens an item of a fan-out, or, without one, its step. */
export type OpenItem = (execution: string, item: number | null) => void;

/** Before HTML, which is what shows the picture where this renderer is not. */
const RANK = 20;

export function fanOutFactory(onOpen: OpenItem): IRenderMime.IRendererFactory {
  return {
    safe: true,
    mimeTypes: [FANOUT_MIME],
    defaultRank: RANK,
    createRenderer: () => new RenderedFanOut(onOpen)
  };
}

class RenderedFanOut extends ReactWidget implements IRenderMime.IRenderer {
  constructor(private _onOpen: OpenItem) {
    super();
    this.addClass('jp-mlb-RenderedFanOut');
  }

  renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    this._picture = readPicture(model.data[FANOUT_MIME]);
    this.update();
    return Promise.resolve();
  }

  protected render(): JSX.Element {
    const picture = this._picture;
    return picture ? (
      <FanOutView picture={picture} onOpen={item => this._onOpen(picture.execution, item)} />
    ) : (
      <span>This picture of a fan-out was written by another version of mlbench.</span>
    );
  }

  private _picture: IPicture | null = null;
}
